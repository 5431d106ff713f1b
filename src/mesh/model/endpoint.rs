//! The endpoints of a service: where it answers, and what stands behind.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::{Locality, LocatedLabels, SpiffeId};
use crate::api::Labels;

/// The endpoints of one service, by service port number, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// `(service port number, endpoints)`, sorted by port.
    pub ports: Vec<(u16, Arc<[Endpoint]>)>,
}

/// An address and port at which a service answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where to connect.
    pub address: EndpointAddress,
    /// The port to connect to.
    pub port: u16,
    /// Who answers there.
    pub backend: Arc<Backend>,
    /// Whether the workload has a sidecar whose mTLS mode for this port is not DISABLE.
    pub mtls: bool,
}

/// An address that an endpoint has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name (endpoints of DNS services).
    Host(SmolStr),
    /// A Unix domain socket (`unix://…`, path only).
    Pipe(SmolStr),
}

/// What stands behind an endpoint: the same for all ports of a workload, and often for several endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Labels of the workload.
    pub labels: Arc<Labels>,
    /// Where it runs; mostly shared with the others on its node.
    pub locality: Arc<Locality>,
    /// The network it is in; empty: the only one.
    pub network: SmolStr,
    /// The cluster it is in.
    pub cluster: SmolStr,
    /// The Kubernetes node; empty when unknown.
    pub node: SmolStr,
    /// At least 1.
    pub weight: u32,
    /// The identity that it presents in mutual TLS.
    pub identity: Option<Arc<SpiffeId>>,
    /// Workload name, for telemetry.
    pub workload: SmolStr,
    /// Namespace of the workload.
    pub namespace: SmolStr,
    /// Whether it is ready.
    pub health: Health,
}

/// Whether an endpoint may be given traffic. (One that is about to end may not, and is no endpoint.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    /// Ready, by Kubernetes.
    Healthy,
    /// Not ready, by Kubernetes.
    Unready,
    /// Not known (endpoints of ServiceEntries and WorkloadEntries): sent without health status.
    Unknown,
}

impl Backend {
    /// Returns its labels with those of where it runs; subsets select by them.
    pub fn located_labels(&self) -> LocatedLabels<'_> {
        let (locality, cluster, node) = (&self.locality, &self.cluster, &self.node);
        LocatedLabels { own: &self.labels, locality, cluster, node, network: Some(&self.network) }
    }
}

impl EndpointSet {
    /// Returns the endpoints for a service port; empty if there are none.
    pub fn port(&self, number: u16) -> &[Endpoint] {
        self.ports.iter().find(|(port, _)| *port == number).map_or(&[], |(_, endpoints)| endpoints)
    }
}

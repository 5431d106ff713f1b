//! Clusters: where traffic can go (contract §3.1, §3.2, §6.3).
//!
//! [`inputs`] says which clusters a service yields for a kind of proxy, [`cluster`] builds one of them from its input
//! and nothing else.

mod connection;
mod fixed;
mod inbound;
mod outbound;
mod upstream_tls;

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;

pub use self::{
    fixed::{Fixed, fixed_inputs},
    inbound::{Inbound, InboundTarget, inbound_inputs},
    outbound::{Outbound, auto_passthrough_inputs},
};
use super::input::{Built, ProxyClass};
use crate::mesh::{
    model::{EndpointSet, Flavour, MtlsMode, Place, ProxyKind, Service},
    settings::MeshSettings,
    traffic::EffectiveDestinationRule,
};

/// All that decides how one cluster looks: equal inputs, equal clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClusterInput {
    /// One of the three that every proxy has.
    Fixed(Fixed),
    /// A port (and perhaps subset) of a service.
    Outbound(Outbound),
    /// A port of the workload itself.
    Inbound(Inbound),
}

/// What a cluster may read about a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// Stock Envoy or Istio's.
    pub flavour: Flavour,
    /// It has an IPv4 address.
    pub ipv4: bool,
    /// It has an IPv6 address.
    pub ipv6: bool,
    /// Whether the proxies of the mesh tell each other who they are, for metrics.
    pub peers: bool,
    /// Names of HTTP/1 headers keep their case.
    pub preserves_case: bool,
}

/// Returns the clusters of a service: one for each port, and one for each port and subset of its DestinationRule. UDP
/// ports, services that only stand for another name, and DNS services without endpoints have none.
///
/// `mtls` is the mode that mesh and namespace policy ask of the service (workload and port policies do not count
/// here, contract §3.2); `None` when it is not known. `endpoints` become part of the input only where the cluster
/// contains them, and `place`, where the clients are, only where it counts for these.
pub fn inputs(
    class: &ProxyClass,
    mesh: &Arc<MeshSettings>,
    place: Option<&Place>,
    service: &Arc<Service>,
    rule: Option<&Arc<EffectiveDestinationRule>>,
    mtls: Option<MtlsMode>,
    endpoints: Option<&Arc<EndpointSet>>,
) -> Vec<ClusterInput> {
    outbound::inputs(&class.into(), mesh, place, service, rule, mtls, endpoints.map(Arc::as_ref))
}

/// Builds the cluster of an input.
pub fn cluster(input: &ClusterInput) -> Built<Cluster> {
    match input {
        ClusterInput::Fixed(fixed) => fixed::cluster(fixed),
        ClusterInput::Outbound(outbound) => outbound::cluster(outbound),
        ClusterInput::Inbound(inbound) => inbound::cluster(inbound),
    }
}

impl From<&ProxyClass> for Profile {
    fn from(class: &ProxyClass) -> Self {
        Self {
            kind: class.kind,
            flavour: class.flavour,
            ipv4: class.ipv4,
            ipv6: class.ipv6,
            peers: class.peers,
            preserves_case: class.preserves_case,
        }
    }
}

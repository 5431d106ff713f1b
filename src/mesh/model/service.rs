//! A service of the mesh: what a hostname means.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::SmolStr;

use super::{Hostname, Origin, Precedence, Protocol, SpiffeId, TrafficDistribution, Visibility};
use crate::api::Labels;

/// What a hostname means: a Kubernetes Service, or one host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its hostname, fully qualified.
    pub hostname: Hostname,
    /// `metadata.name` of the Service or ServiceEntry.
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
    /// Kubernetes or ServiceEntry.
    pub registry: Registry,
    /// Its ports, in the order in which they were written.
    pub ports: Vec<ServicePort>,
    /// Virtual addresses: cluster IPs, or a ServiceEntry's addresses (may be CIDRs); empty for headless and for none.
    pub addresses: Vec<SmolStr>,
    /// Where ports are reached that other definitions of the host bring or have, too; [`UNSPECIFIED`] stands for those that
    /// have no address. Read by [`Service::addresses_at`].
    pub port_addresses: BTreeMap<u16, Arc<[SmolStr]>>,
    /// Cluster IPs in other clusters that have the same Service: by cluster, sorted.
    pub addresses_elsewhere: Vec<(SmolStr, Vec<SmolStr>)>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Whether it is a Kubernetes Service with `clusterIP: None`.
    pub headless: bool,
    /// Whether it is outside the mesh: `location: MESH_EXTERNAL`, or an ExternalName service.
    pub mesh_external: bool,
    /// Hostnames of ExternalName services that point here, sorted.
    pub aliases: Vec<Hostname>,
    /// Where an ExternalName service points. Such a service has no cluster and no virtual host itself.
    pub external_name: Option<Hostname>,
    /// Who may see it.
    pub export_to: Visibility,
    /// Identities that its endpoints may have, sorted; from endpoints and annotations.
    pub service_accounts: Vec<SpiffeId>,
    /// `subjectAltNames` of a ServiceEntry.
    pub subject_alt_names: Vec<SmolStr>,
    /// Labels of the object.
    pub labels: Arc<Labels>,
    /// Selects its pods; empty: it selects none.
    pub selector: Arc<Labels>,
    /// `publishNotReadyAddresses`
    pub publish_not_ready: bool,
    /// Whether clients are given endpoints of their own node alone (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Which endpoints go first for a client.
    pub distribution: TrafficDistribution,
    /// Age, for order and tie-breaks.
    pub precedence: Precedence,
    /// The object it came from.
    pub origin: Origin,
    /// Other objects of its namespace that say the same of this host; it has their ports too.
    pub joined: Vec<Origin>,
    /// What namespaces see of the host that do not see this: its namespace defines it several times, with another `exportTo`.
    /// The first goes first.
    pub other_views: Vec<Arc<Service>>,
}

/// Identifies a [`Service`]: several namespaces may define the same hostname.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The service's hostname.
    pub hostname: Hostname,
    /// The namespace of the object that defines it.
    pub namespace: SmolStr,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// The port that clients use.
    pub number: u16,
    /// Its name; EndpointSlice ports join by it.
    pub name: SmolStr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port that the pod listens on; a named one is resolved for each endpoint.
    pub target_port: TargetPort,
}

/// `targetPort` of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// A port number.
    Number(u16),
    /// The name of a container port.
    Name(SmolStr),
}

/// How a client finds the endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resolution {
    /// Endpoints are known and sent by EDS.
    ClientSideLb,
    /// The client's proxy resolves all names by DNS (`STRICT_DNS`).
    DnsLb,
    /// The client's proxy resolves one name by DNS (`LOGICAL_DNS`).
    DnsRoundRobin,
    /// The original destination address is used (headless services, resolution NONE).
    Passthrough,
    /// The name comes from the request (`DYNAMIC_DNS`).
    DynamicDns,
}

/// Where a service comes from, which decides between equal hostnames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry.
    External,
}

/// The address that means all: of services without an address of their own.
pub const UNSPECIFIED: &str = "0.0.0.0";

impl Service {
    /// Returns the virtual addresses at which a port is reached; empty where it has none.
    pub fn addresses_at(&self, port: u16) -> &[SmolStr] {
        self.port_addresses.get(&port).map_or(&self.addresses, |addresses| addresses)
    }

    /// Returns what decides between services of one host: Kubernetes' Services go first, then what is exported to single
    /// namespaces, then the older.
    pub fn rank(&self) -> impl Ord + use<'_> {
        let breadth = match self.export_to {
            Visibility::Namespaces(_) => 0,
            Visibility::Public => 1,
            Visibility::None => 2,
        };
        (self.registry, breadth, &self.precedence)
    }

    /// Returns the objects that say what it is.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        std::iter::once(&self.origin).chain(&self.joined)
    }

    /// Returns its key.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { hostname: self.hostname.clone(), namespace: self.namespace.clone() }
    }

    /// Returns the port with that number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Returns whether proxies that see it have a cluster for a port, once it has endpoints.
    pub fn has_cluster_for(&self, number: u16) -> bool {
        self.external_name.is_none() && self.port(number).is_some_and(|port| port.protocol != Protocol::Udp)
    }
}

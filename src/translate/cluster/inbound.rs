//! Clusters of the workload itself: where a sidecar hands over what it received (contract §3.1).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use envoy_types::pb::envoy::config::{
    cluster::v3::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy},
    },
    core::v3::{Address, Pipe, SocketAddress, address, socket_address::PortSpecifier},
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
};
use envoy_types::pb::google::protobuf::{Duration, Value};
use smol_str::SmolStr;

use super::{
    ClusterInput, Profile,
    connection::{self, HttpVersion, UpstreamHttp},
    fixed::passthrough_bind,
    outbound,
};
use crate::{
    mesh::{
        model::{Interception, Protocol, Service},
        settings::MeshSettings,
        sidecar::{DefaultEndpoint, Ingress},
        traffic::{ConnectionPool, EffectiveDestinationRule},
        world::Sidecar,
    },
    translate::{
        input::{Built, ByPtr, ProxyClass},
        metadata, naming, wkt,
    },
};

/// Original-destination clusters forget hosts after this long: never, as far as protobuf can say it.
const NEVER: Duration = Duration { seconds: 9_223_372_035, nanos: 0 };

/// One port on which the workload receives traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inbound {
    profile: Profile,
    mesh: ByPtr<MeshSettings>,
    sidecar: Option<ByPtr<Sidecar>>,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Service {
        service: ByPtr<Service>,
        port: u16,
        target_port: u16,
        rule: Option<ByPtr<EffectiveDestinationRule>>,
        /// Others with the same port and target port, for telemetry.
        beside: Vec<ByPtr<Service>>,
    },
    /// Position in the Sidecar's `ingress`, and the workload's own address.
    Ingress {
        at: usize,
        workload: IpAddr,
        /// The service of the workload with that target port.
        service: Option<ByPtr<Service>>,
    },
}

/// A service port that selects the workload.
#[derive(Clone, Debug)]
pub struct InboundTarget {
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: u16,
    /// The port on which the workload listens.
    pub target_port: u16,
    /// The DestinationRule that applies to the service in the workload's own namespace.
    pub rule: Option<Arc<EffectiveDestinationRule>>,
}

/// Returns the inbound clusters of a workload: one for each `ingress` listener of its Sidecar. If it has none, and
/// traffic is captured, there is one for each target port; the first service of a port wins.
pub fn inbound_inputs(
    class: &ProxyClass,
    mesh: &Arc<MeshSettings>,
    sidecar: Option<&Arc<Sidecar>>,
    targets: &[InboundTarget],
    workload: IpAddr,
) -> Vec<ClusterInput> {
    let input = |source| Inbound { profile: class.into(), mesh: mesh.into(), sidecar: sidecar.map(Into::into), source };
    let ingress = sidecar.map_or(&[][..], |sidecar| &sidecar.spec.ingress);
    let all: Vec<Inbound> = if !ingress.is_empty() {
        let listeners = ingress.iter().enumerate();
        let source = |at: usize, ingress: &Ingress| {
            let target = targets.iter().find(|target| target.target_port == ingress.port);
            let service = target.map(|target| (&target.service).into());
            Source::Ingress { at, workload, service }
        };
        listeners.map(|(at, listener)| input(source(at, listener))).collect()
    } else if class.interception == Interception::None {
        Vec::new()
    } else {
        let source = |target: &InboundTarget| Source::Service {
            service: (&target.service).into(),
            port: target.port,
            target_port: target.target_port,
            rule: target.rule.as_ref().map(Into::into),
            beside: beside(target, targets),
        };
        targets.iter().map(|target| input(source(target))).collect()
    };
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|inbound| seen.insert(inbound.port())).map(ClusterInput::Inbound).collect()
}

/// Returns the other services that have a target's port at the same port of the workload, in their order.
fn beside(target: &InboundTarget, targets: &[InboundTarget]) -> Vec<ByPtr<Service>> {
    let same = targets.iter().filter(|other| (other.port, other.target_port) == (target.port, target.target_port));
    let mut seen = BTreeSet::from([&target.service.hostname]);
    same.filter(|other| seen.insert(&other.service.hostname)).map(|other| (&other.service).into()).collect()
}

pub(super) fn cluster(input: &Inbound) -> Built<Cluster> {
    let name = input.name();
    let mut cluster = Cluster {
        name: name.to_string(),
        alt_stat_name: statistics_name(input).unwrap_or_else(|| name.to_string()) + ";",
        common_lb_config: connection::common_lb_config(),
        ..Default::default()
    };
    let protocol = input.protocol();
    let version = HttpVersion::of_port(protocol, true);
    let preserves_case = input.profile.preserves_case && version.has_case(protocol);
    connection::apply(&mut cluster, &input.mesh, input.pool(), version, UpstreamHttp { preserves_case, ..Default::default() });
    if let Source::Ingress { service: Some(service), .. } = &input.source {
        let services = ("services", outbound::services(std::iter::once(&**service)));
        cluster.metadata = metadata::istio(std::iter::once(services).chain(in_metrics(input, service)));
    }
    if let Source::Service { service, rule, beside, .. } = &input.source {
        let config = rule.as_ref().and_then(|rule| rule.origins.first()).map(naming::config_path);
        let config = config.map(|path| ("config", wkt::text_value(path.as_str())));
        let services = outbound::services(std::iter::once(&**service).chain(beside.iter().map(|service| &**service)));
        let services = (!service.mesh_external).then_some(("services", services));
        let in_metrics = services.iter().flat_map(|_| in_metrics(input, service)).collect::<Vec<_>>();
        cluster.metadata = metadata::istio(config.into_iter().chain(services).chain(in_metrics));
    }
    match input.endpoint() {
        Handover::Address { address, bound } => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
            cluster.load_assignment = Some(single(&name, address));
            cluster.upstream_bind_config = bound.then(|| passthrough_bind(input.profile));
        }
        Handover::OriginalDestination => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
            cluster.lb_policy = LbPolicy::ClusterProvided.into();
            cluster.cleanup_interval = Some(NEVER);
            cluster.upstream_bind_config = Some(passthrough_bind(input.profile));
        }
    }
    Built::new(cluster, input.origins())
}

fn in_metrics(input: &Inbound, service: &Service) -> impl Iterator<Item = (&'static str, Value)> {
    input.profile.peers.then(|| outbound::in_metrics(service)).into_iter().flatten()
}

/// Where the application is reached.
enum Handover {
    /// At this address. `bound` says whether the connection comes from the passthrough address.
    Address {
        address: address::Address,
        bound: bool,
    },
    OriginalDestination,
}

fn handover(endpoint: &DefaultEndpoint, workload: IpAddr) -> Handover {
    let (address, bound) = match endpoint {
        DefaultEndpoint::OriginalDestination => return Handover::OriginalDestination,
        DefaultEndpoint::Socket(path) => (address::Address::Pipe(Pipe { path: path.to_string(), ..Default::default() }), true),
        DefaultEndpoint::Workload(port) => (socket(&workload.to_string(), *port), true),
        DefaultEndpoint::Loopback(address, port) => (socket(&address.to_string(), *port), false),
    };
    Handover::Address { address, bound }
}

fn socket(address: &str, port: u16) -> address::Address {
    address::Address::SocketAddress(SocketAddress {
        address: address.into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    })
}

fn single(name: &SmolStr, address: address::Address) -> ClusterLoadAssignment {
    let endpoint = Endpoint { address: Some(Address { address: Some(address) }), ..Default::default() };
    let endpoint = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() };
    ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    }
}

fn statistics_name(input: &Inbound) -> Option<String> {
    let Source::Service { service, port, target_port, .. } = &input.source else { return None };
    let name = naming::statistics_name(&input.mesh.inbound_cluster_stat_name, service, service.port(*port)?, "")?;
    Some(name.replace("%TARGET_PORT%", &target_port.to_string()))
}

impl Inbound {
    pub(super) fn name(&self) -> SmolStr {
        naming::inbound_cluster(self.port())
    }

    fn port(&self) -> u16 {
        match &self.source {
            Source::Service { target_port, .. } => *target_port,
            Source::Ingress { .. } => self.ingress().map_or(0, |ingress| ingress.port),
        }
    }

    fn protocol(&self) -> Protocol {
        match &self.source {
            Source::Service { service, port, .. } => service.port(*port).map_or(Protocol::Tcp, |port| port.protocol),
            Source::Ingress { .. } => self.ingress().map_or(Protocol::Tcp, |ingress| ingress.protocol),
        }
    }

    fn ingress(&self) -> Option<&Ingress> {
        match &self.source {
            Source::Service { .. } => None,
            Source::Ingress { at, .. } => self.sidecar.as_ref()?.spec.ingress.get(*at),
        }
    }

    fn endpoint(&self) -> Handover {
        match &self.source {
            Source::Ingress { workload, .. } => {
                handover(self.ingress().map_or(&DefaultEndpoint::OriginalDestination, |ingress| &ingress.default_endpoint), *workload)
            }
            Source::Service { target_port, .. } if self.mesh.inbound_localhost => {
                let localhost = if self.profile.ipv6 && !self.profile.ipv4 { "::1" } else { "127.0.0.1" };
                Handover::Address { address: socket(localhost, *target_port), bound: false }
            }
            Source::Service { .. } => Handover::OriginalDestination,
        }
    }

    // The listener's own settings, else the Sidecar's, else those of the service's rule.
    fn pool(&self) -> Option<&ConnectionPool> {
        let of_listener = self.ingress().and_then(|ingress| ingress.connection_pool.as_ref());
        let of_sidecar = self.sidecar.as_ref().and_then(|sidecar| sidecar.spec.inbound_connection_pool.as_ref());
        let of_rule = match &self.source {
            Source::Service { rule, port, .. } => rule.as_ref().and_then(|rule| rule.policy.port(*port).connection_pool.as_deref()),
            Source::Ingress { .. } => None,
        };
        of_listener.or(of_sidecar).or(of_rule)
    }

    fn origins(&self) -> Vec<crate::mesh::model::Origin> {
        let sidecar = self.sidecar.iter().map(|sidecar| sidecar.origin.clone());
        match &self.source {
            Source::Service { service, rule, .. } => {
                let rules = rule.iter().flat_map(|rule| rule.origins.iter().cloned());
                std::iter::once(service.origin.clone()).chain(rules).chain(sidecar).collect()
            }
            Source::Ingress { service, .. } => service.iter().map(|service| service.origin.clone()).chain(sidecar).collect(),
        }
    }
}

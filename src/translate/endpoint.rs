//! Load assignments: the endpoints of EDS clusters (contract §2.10, §3.1, §6.4).

use std::{net::IpAddr, sync::Arc};

use envoy_types::pb::{
    envoy::config::{
        core::v3::{
            Address, HealthStatus, Locality as EnvoyLocality, Metadata, Pipe, SocketAddress, address, socket_address::PortSpecifier,
        },
        endpoint::v3::{ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
    },
    google::protobuf::UInt32Value,
};
use smol_str::SmolStr;

use super::{
    cluster::policy::Policy,
    input::{Built, ByPtr, ProxyClass},
    metadata, naming,
};
use crate::{
    api::{
        Labels,
        istio::{ClientTlsMode, Subset},
    },
    mesh::{
        model::{Endpoint, EndpointAddress, EndpointSet, Health, Locality, Origin, Protocol, ProxyKind, Registry, Resolution, Service},
        world::EffectiveDestinationRule,
    },
};

/// All that decides how one load assignment looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointInput {
    name: SmolStr,
    /// `None`: there are none.
    endpoints: Option<ByPtr<[Endpoint]>>,
    /// Labels of the subset; `None`: all endpoints.
    subset: Option<Labels>,
    choice: Choice,
    origin: Origin,
}

/// Which endpoints go in, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Choice {
    /// All; those that can do mTLS say so.
    Marked,
    /// All; none says so, because a DestinationRule decided about TLS.
    Unmarked,
    /// Only those that can do mTLS: bytes pass through an AUTO_PASSTHROUGH gateway as they are.
    MtlsOnly,
}

/// The load assignments that belong to the EDS clusters of a service (see [`super::cluster::inputs`]); the names are
/// the clusters'. `auto_passthrough` asks for those of an AUTO_PASSTHROUGH gateway instead.
pub fn inputs(
    class: &ProxyClass,
    service: &Arc<Service>,
    rule: Option<&Arc<EffectiveDestinationRule>>,
    endpoints: Option<&Arc<EndpointSet>>,
    auto_passthrough: bool,
) -> Vec<EndpointInput> {
    if service.external_name.is_some() || !by_eds(class.kind, service) {
        return Vec::new();
    }
    let mut inputs = Vec::new();
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
        let of_port = endpoints.and_then(|set| set.ports.iter().find(|(number, _)| *number == port.number));
        let of_port: Option<ByPtr<[Endpoint]>> = of_port.map(|(_, endpoints)| endpoints.into());
        for subset in std::iter::once(None).chain(rule.iter().flat_map(|rule| &rule.subsets).map(Some)) {
            let rule = rule.map(Arc::as_ref);
            if Policy::balances_by_destination(rule, subset, port.number) {
                continue;
            }
            let subset_name = subset.map_or("", |subset| &subset.name);
            let (name, choice) = match (auto_passthrough, keeps_mtls(rule, subset, port.number)) {
                (true, _) => (naming::dns_srv(port.number, subset_name, &service.hostname), Choice::MtlsOnly),
                (false, true) => (naming::outbound_cluster(port.number, subset_name, &service.hostname), Choice::Marked),
                (false, false) => (naming::outbound_cluster(port.number, subset_name, &service.hostname), Choice::Unmarked),
            };
            let subset = subset.map(|subset| subset.labels.clone());
            inputs.push(EndpointInput { name, endpoints: of_port.clone(), subset, choice, origin: service.origin.clone() });
        }
    }
    inputs
}

/// Builds the load assignment of an input. Without endpoints it holds only its name.
pub fn load_assignment(input: &EndpointInput) -> Built<ClusterLoadAssignment> {
    let chosen = of_subset(input.endpoints.as_deref().unwrap_or_default(), input.subset.as_ref());
    let message = match input.choice {
        Choice::Marked => assignment(&input.name, chosen, true),
        Choice::Unmarked => assignment(&input.name, chosen, false),
        Choice::MtlsOnly => {
            // As istiod: a locality whose endpoints were all left out stays, empty.
            let mut assignment = assignment(&input.name, chosen, true);
            for locality in &mut assignment.endpoints {
                locality.lb_endpoints.retain(says_mtls);
                locality.load_balancing_weight = summed(&locality.lb_endpoints);
            }
            assignment
        }
    };
    Built::new(message, [input.origin.clone()])
}

impl EndpointInput {
    /// The cluster's name.
    pub fn name(&self) -> &SmolStr {
        &self.name
    }
}

/// The endpoints that have the labels of a subset.
pub(super) fn of_subset<'a>(endpoints: &'a [Endpoint], labels: Option<&'a Labels>) -> impl Iterator<Item = &'a Endpoint> {
    let has = |endpoint: &Endpoint, wanted: &Labels| wanted.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value));
    endpoints.iter().filter(move |endpoint| labels.is_none_or(|wanted| has(endpoint, wanted)))
}

/// Whether endpoints may say that they can do mTLS: not when a rule decided about TLS, unless for in-mesh mTLS.
pub(super) fn keeps_mtls(rule: Option<&EffectiveDestinationRule>, subset: Option<&Subset>, port: u16) -> bool {
    Policy::new(rule, subset, port).tls.is_none_or(|tls| tls.mode == ClientTlsMode::IstioMutual)
}

/// A load assignment of these endpoints, by locality in the order of its label.
pub(super) fn assignment<'a>(name: &str, endpoints: impl Iterator<Item = &'a Endpoint>, keep_mtls: bool) -> ClusterLoadAssignment {
    // A service has few localities, often one.
    let mut localities: Vec<(&Locality, Vec<LbEndpoint>)> = Vec::new();
    for endpoint in endpoints {
        let built = lb_endpoint(endpoint, keep_mtls);
        match localities.iter_mut().find(|(locality, _)| **locality == endpoint.locality) {
            Some((_, endpoints)) => endpoints.push(built),
            None => localities.push((&endpoint.locality, vec![built])),
        }
    }
    localities.sort_by_cached_key(|(locality, _)| locality.label());
    let localities = localities.into_iter().map(|(locality, endpoints)| LocalityLbEndpoints {
        locality: Some(EnvoyLocality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            sub_zone: locality.subzone.to_string(),
        }),
        load_balancing_weight: summed(&endpoints),
        lb_endpoints: endpoints,
        ..Default::default()
    });
    ClusterLoadAssignment { cluster_name: name.into(), endpoints: localities.collect(), ..Default::default() }
}

fn by_eds(kind: ProxyKind, service: &Service) -> bool {
    match service.resolution {
        Resolution::ClientSideLb => true,
        Resolution::Passthrough => kind == ProxyKind::Gateway && service.registry == Registry::Kubernetes,
        Resolution::DnsLb | Resolution::DnsRoundRobin | Resolution::DynamicDns => false,
    }
}

fn lb_endpoint(endpoint: &Endpoint, keep_mtls: bool) -> LbEndpoint {
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Unknown => HealthStatus::Unknown,
    };
    LbEndpoint {
        health_status: health.into(),
        metadata: Some(endpoint_metadata(endpoint, keep_mtls && endpoint.mtls)),
        load_balancing_weight: Some(UInt32Value { value: endpoint.weight }),
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(Address { address: Some(address(endpoint)) }),
            ..Default::default()
        })),
    }
}

fn address(endpoint: &Endpoint) -> address::Address {
    let socket = |address: String| {
        address::Address::SocketAddress(SocketAddress {
            address,
            port_specifier: Some(PortSpecifier::PortValue(endpoint.port.into())),
            ..Default::default()
        })
    };
    match &endpoint.address {
        EndpointAddress::Ip(IpAddr::V4(address)) => socket(address.to_string()),
        EndpointAddress::Ip(IpAddr::V6(address)) => socket(address.to_string()),
        EndpointAddress::Host(name) => socket(name.to_string()),
        EndpointAddress::Pipe(path) => address::Address::Pipe(Pipe { path: path.to_string(), ..Default::default() }),
    }
}

const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

// `istio.workload`: name;namespace;canonical name;canonical revision;cluster.
fn endpoint_metadata(endpoint: &Endpoint, mtls: bool) -> Metadata {
    let label = |keys: [&str; 3]| keys.iter().find_map(|key| endpoint.labels.get(*key)).map_or("", SmolStr::as_str);
    let canonical = label(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let canonical = if canonical.is_empty() { endpoint.workload.as_str() } else { canonical };
    let revision = label(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let workload = [&endpoint.workload, &endpoint.namespace, canonical, revision, &endpoint.cluster].join(";");
    let istio = (metadata::ISTIO, metadata::structure([("workload", metadata::text(workload))]));
    let matched = mtls.then(|| (TRANSPORT_SOCKET_MATCH, metadata::structure([("tlsMode", metadata::text("istio"))])));
    metadata::filter_metadata(matched.into_iter().chain([istio]))
}

fn says_mtls(endpoint: &LbEndpoint) -> bool {
    endpoint.metadata.as_ref().is_some_and(|metadata| metadata.filter_metadata.contains_key(TRANSPORT_SOCKET_MATCH))
}

// An empty locality has no weight.
fn summed(endpoints: &[LbEndpoint]) -> Option<UInt32Value> {
    let weights = endpoints.iter().filter_map(|endpoint| endpoint.load_balancing_weight);
    let value = weights.fold(0u32, |sum, weight| sum.saturating_add(weight.value));
    (!endpoints.is_empty()).then_some(UInt32Value { value })
}

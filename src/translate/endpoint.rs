//! Load assignments: the endpoints of EDS clusters (contract §2.10, §3.1, §6.4).

mod nearness;
mod unready;
mod wire;

use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message;
use smol_str::SmolStr;

pub(super) use self::nearness::Nearness;
pub(super) use self::unready::{Unready, panic_threshold};
use super::{
    input::{Built, ByPtr, ProxyClass},
    naming,
};
use crate::mesh::{
    model::{Endpoint, EndpointAddress, EndpointSet, Health, Labels, Locality, Origin, Place, Protocol, ProxyKind, Resolution, Service},
    settings::MeshSettings,
    traffic::{ClientTls, EffectiveDestinationRule, EffectiveSubset, PortPolicy},
};

/// All that decides how one load assignment looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointInput {
    name: SmolStr,
    /// `None`: there are none.
    endpoints: Option<ByPtr<[Endpoint]>>,
    /// Labels of the subset; `None`: all endpoints.
    subset: Option<Arc<Labels>>,
    choice: Choice,
    /// Whether endpoints say all that metrics say of a workload.
    all_labels: bool,
    unready: Unready,
    /// How endpoints are chosen by where the client is.
    nearness: Option<Arc<Nearness>>,
    origin: Origin,
}

/// What endpoints say of themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    /// That they can do mTLS.
    pub(super) mtls: bool,
    /// All that metrics say of a workload.
    pub(super) all_labels: bool,
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

/// Returns the load assignments that belong to the EDS clusters of a service (see [`super::cluster::inputs`]); the names
/// are the clusters'. `auto_passthrough` asks for those of an AUTO_PASSTHROUGH gateway instead. `place` is where the clients
/// are, which counts for some services.
pub fn inputs(
    class: &ProxyClass,
    mesh: &MeshSettings,
    place: Option<&Place>,
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
            if rule.is_some_and(|rule| rule.balances_by_destination(subset, port.number)) {
                continue;
            }
            // The cluster has no endpoints: see `super::cluster`.
            if !auto_passthrough && tls_of(rule, subset, port.number).is_some_and(|tls| !tls.connects(class.kind)) {
                continue;
            }
            let subset_name = subset.map_or("", |subset| &subset.name);
            let (name, choice) = match (auto_passthrough, keeps_mtls(rule, subset, port.number)) {
                (true, _) => (naming::dns_srv(port.number, subset_name, &service.hostname), Choice::MtlsOnly),
                (false, true) => (naming::outbound_cluster(port.number, subset_name, &service.hostname), Choice::Marked),
                (false, false) => (naming::outbound_cluster(port.number, subset_name, &service.hostname), Choice::Unmarked),
            };
            let policy = rule.map_or(PortPolicy::NONE, |rule| rule.port(subset, port.number));
            let unready = Unready::of(mesh, service, policy);
            let nearness = place.and_then(|place| Nearness::of(place, mesh, service, policy)).map(Arc::new);
            let subset = subset.map(|subset| Arc::clone(&subset.labels));
            let (endpoints, origin) = (of_port.clone(), service.origin.clone());
            inputs.push(EndpointInput { name, endpoints, subset, choice, all_labels: class.peers, unready, nearness, origin });
        }
    }
    inputs
}

/// Returns the load assignment of an input: a `ClusterLoadAssignment`, encoded in canonical order. Without endpoints it
/// holds only its name.
pub fn load_assignment(input: &EndpointInput) -> Built<Vec<u8>> {
    let of_subset = of_subset(input.endpoints.as_deref().unwrap_or_default(), input.subset.as_deref());
    // Another definition of the host may name endpoints by DNS, which Envoy refuses in an assignment.
    let of_subset = of_subset.filter(|endpoint| !matches!(endpoint.address, EndpointAddress::Host(_)));
    let within_reach = of_subset.filter(|endpoint| input.nearness.as_ref().is_none_or(|nearness| nearness.reaches(endpoint)));
    let said = Said { mtls: input.choice != Choice::Unmarked, all_labels: input.all_labels };
    let mut localities = by_locality(input.unready.chosen(within_reach), said);
    if input.choice == Choice::MtlsOnly {
        // As with istiod, a locality whose endpoints were all left out stays, and is empty.
        for group in &mut localities {
            let left = group.endpoints.iter().filter(|sent| sent.mtls).copied().collect();
            *group = wire::Group::new(group.locality, left);
        }
    }
    if let Some(nearness) = &input.nearness {
        localities = nearness.apply(localities);
    }
    Built::new(wire::encode(&input.name, &localities), [input.origin.clone()])
}

impl EndpointInput {
    /// Returns the cluster's name.
    pub fn name(&self) -> &SmolStr {
        &self.name
    }
}

/// Returns the endpoints that have the labels of a subset, those of where they run included.
pub(super) fn of_subset<'a>(endpoints: &'a [Endpoint], labels: Option<&'a Labels>) -> impl Iterator<Item = &'a Endpoint> {
    endpoints.iter().filter(move |endpoint| labels.is_none_or(|wanted| endpoint.backend.located_labels().are_selected_by(wanted)))
}

/// Returns whether endpoints may say that they can do mTLS: not where a rule decides about TLS, unless it asks for
/// in-mesh mTLS.
pub(super) fn keeps_mtls(rule: Option<&EffectiveDestinationRule>, subset: Option<&EffectiveSubset>, port: u16) -> bool {
    tls_of(rule, subset, port).is_none_or(|tls| matches!(tls, ClientTls::IstioMutual { .. }))
}

fn tls_of<'a>(rule: Option<&'a EffectiveDestinationRule>, subset: Option<&'a EffectiveSubset>, port: u16) -> Option<&'a ClientTls> {
    rule.and_then(|rule| rule.port(subset, port).tls.as_deref())
}

/// Returns a load assignment of these endpoints, grouped by locality, in the order of the localities' labels.
pub(super) fn assignment(
    name: &str,
    endpoints: &[Endpoint],
    unready: Unready,
    nearness: Option<&Nearness>,
    said: Said,
) -> ClusterLoadAssignment {
    let localities = by_locality(unready.chosen(endpoints.iter()), said);
    let localities = nearness.into_iter().fold(localities, |localities, nearness| nearness.apply(localities));
    // What was encoded just now can be read.
    ClusterLoadAssignment::decode(&wire::encode(name, &localities)[..]).unwrap_or_default()
}

fn by_locality(endpoints: Vec<(&Endpoint, Health)>, said: Said) -> Vec<wire::Group<'_>> {
    // A service has few localities, often one.
    let mut localities: Vec<(&Locality, Vec<wire::Sent<'_>>)> = Vec::new();
    for (endpoint, health) in endpoints {
        let sent = wire::Sent { endpoint, health, mtls: said.mtls && endpoint.mtls, all_labels: said.all_labels };
        match localities.iter_mut().find(|(locality, _)| **locality == *endpoint.backend.locality) {
            Some((_, group)) => group.push(sent),
            None => localities.push((&endpoint.backend.locality, vec![sent])),
        }
    }
    if localities.len() > 1 {
        localities.sort_by_cached_key(|(locality, _)| locality.label());
    }
    localities.into_iter().map(|(locality, endpoints)| wire::Group::new(locality, endpoints)).collect()
}

fn by_eds(kind: ProxyKind, service: &Service) -> bool {
    match service.resolution {
        Resolution::ClientSideLb => true,
        Resolution::Passthrough => kind == ProxyKind::Gateway,
        Resolution::DnsLb | Resolution::DnsRoundRobin | Resolution::DynamicDns => false,
    }
}

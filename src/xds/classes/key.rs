//! What proxies have in common. Proxies with equal keys are sent equal bytes; a key holds exactly what the translation
//! behind it may read.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::patching::Patching;
use crate::{
    mesh::{
        extension::PlacedExtension,
        model::{Flavour, Labels, Place, PlaceDetail, Proxy, ProxyKind, ProxyPorts, Resolution, Service},
        policy::extensions::workload_extensions,
        scope::{Scope, ScopeKey},
        telemetry::SideTelemetry,
        traffic::place_detail,
        world::World,
    },
    translate::{
        input::{ListenerTraits, ProxyClass, RouteTraits},
        listener::{holds_own_addresses, outbound::OutboundView},
    },
    visits::{Visit, Visited},
};

/// What proxies have in common that share clusters, endpoints and routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SharedKey {
    pub(super) scope: ScopeKey,
    pub(super) class: ProxyClass,
    /// The patches for clusters and routes.
    pub(super) patching: Patching,
}

/// What proxies have in common that share outbound listeners.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListenersKey {
    pub(super) scope: ScopeKey,
    pub(super) class: ProxyClass,
    pub(super) http_proxy_port: Option<u16>,
    /// The proxy's own addresses, as far as headless services have endpoints there or its Sidecar binds them.
    pub(super) own: Vec<IpAddr>,
    pub(super) ports: ProxyPorts,
    /// The patches for listeners.
    pub(super) patching: Patching,
    /// Those for the clusters that the listeners name.
    pub(super) of_scope: Patching,
}

impl ListenersKey {
    /// Returns what the listeners are planned from.
    pub(super) fn view<'a>(&'a self, world: &'a World, scope: &'a Scope) -> OutboundView<'a> {
        let (class, own) = (&self.class, self.own.as_slice());
        OutboundView { scope, class, mesh: &world.mesh, endpoints: &world.endpoints, own, ports: self.ports }
    }
}

impl ListenersKey {
    /// Returns the key of what these proxies share with those that are named otherwise in traces.
    pub(super) fn shared(&self) -> SharedKey {
        SharedKey { scope: self.scope.clone(), class: self.class.without_listeners(), patching: self.of_scope.clone() }
    }
}

/// What proxies have in common that share the endpoints of services for which it counts where clients are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LocatedKey {
    pub(super) shared: SharedKey,
    pub(super) place: Place,
}

/// The label keys, and how much of their place, by which objects of a world tell proxies apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DistinguishingLabels {
    /// In `sourceLabels` of routes.
    routes: BTreeSet<SmolStr>,
    /// How closely it counts where proxies are.
    place: Option<PlaceDetail>,
}

impl DistinguishingLabels {
    pub(super) fn of(world: &World) -> Self {
        let mut found = Self { place: world.place_detail(), ..Self::default() };
        for routes in world.routes.values().visiting(Visited::Route) {
            found.routes.extend(routes.source_label_keys().cloned());
        }
        found
    }
}

/// Returns where a proxy is, as far as that counts for any service.
pub(super) fn place_of(proxy: &Proxy, distinguishing: &DistinguishingLabels) -> Option<Place> {
    distinguishing.place.as_ref().map(|detail| Place::of(proxy, detail))
}

/// Returns whether it counts where clients are for a service's endpoints.
pub(super) fn is_located(world: &World, scope: &Scope, service: &Service) -> bool {
    place_detail(&world.mesh.locality_lb, service, scope.destination_rules.get(&service.hostname).map(Arc::as_ref)).is_some()
}

/// Returns the class of a proxy: for listeners with what they alone read, `reports` of their side among it; for the rest without it.
pub(super) fn class_of(
    world: &World,
    proxy: &Proxy,
    distinguishing: &DistinguishingLabels,
    reports: Option<&Arc<SideTelemetry>>,
) -> ProxyClass {
    ProxyClass {
        kind: proxy.kind,
        flavour: proxy.flavour,
        interception: proxy.interception,
        namespace: proxy.namespace.clone(),
        dns_domain: proxy.dns_domain.clone(),
        ipv4: proxy.ips.iter().any(IpAddr::is_ipv4),
        ipv6: proxy.ips.iter().any(IpAddr::is_ipv6),
        http10: proxy.http10,
        idle_timeout: proxy.idle_timeout,
        routes: proxy.headers.as_deref().map(RouteTraits::of).unwrap_or_default(),
        preserves_case: proxy.headers.as_ref().is_some_and(|headers| headers.preserve_case == Some(true)),
        labels: Arc::new(project(&proxy.labels, &distinguishing.routes)),
        peers: proxy.metrics.peers,
        listener: reports.map(|reports| listener_traits(world, proxy, reports)).unwrap_or_default(),
    }
}

fn listener_traits(world: &World, proxy: &Proxy, reports: &Arc<SideTelemetry>) -> ListenerTraits {
    let extensions = workload_extensions(world, &proxy.namespace, &proxy.labels);
    let in_front = proxy.topology.filter(|_| proxy.kind == ProxyKind::Gateway);
    ListenerTraits {
        telemetry: if proxy.flavour == Flavour::Istio { Arc::clone(&proxy.telemetry) } else { Arc::default() },
        exact_balance: proxy.exact_balance,
        topology: in_front.unwrap_or_default(),
        metrics: proxy.metrics,
        reports: Arc::clone(reports),
        headers: proxy.headers.clone().unwrap_or_default(),
        service_name: if reports.names_service() { proxy.service_cluster.clone() } else { SmolStr::default() },
        extensions: extensions.iter().map(|extension| PlacedExtension::of(&extension.spec, proxy.flavour)).collect(),
    }
}

fn project(labels: &Labels, keys: &BTreeSet<SmolStr>) -> Labels {
    labels.iter().filter(|(key, _)| keys.contains(*key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns those of the proxy's addresses at which services get no listener: a visible headless service has an endpoint
/// there, or the proxy's Sidecar binds them.
pub(super) fn own_addresses(world: &World, scope: &Scope, proxy: &Proxy) -> Vec<IpAddr> {
    let bound = scope.sidecar.as_ref().is_some_and(|sidecar| holds_own_addresses(&sidecar.spec, proxy.interception));
    let headless = |address: &IpAddr| {
        let services = world.services_at.get(address).into_iter().flat_map(|services| services.iter());
        services.filter_map(|key| scope.services.get(&key.hostname)).any(|service| service.resolution == Resolution::Passthrough)
    };
    proxy.ips.iter().filter(|address| bound || headless(address)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{
        by_ptr::ByPtr,
        model::{ExactBalance, GatewayTopology, TelemetryIdentity},
        providers::NamedProvider,
        telemetry::AccessLog,
    };

    #[test]
    fn what_only_listeners_read_is_not_part_of_what_is_shared() {
        let mut proxy = Proxy::new(ProxyKind::Gateway, "gateway.edge");
        proxy.flavour = Flavour::Istio;
        proxy.telemetry = Arc::new(TelemetryIdentity { mesh_id: "m".into(), ..TelemetryIdentity::default() });
        proxy.exact_balance = ExactBalance { inbound: true, outbound: true };
        proxy.topology = Some(GatewayTopology { trusted_proxies: 2, ..GatewayTopology::default() });
        let labels = DistinguishingLabels::default();
        let scope = ScopeKey { kind: proxy.kind, namespace: "edge".into(), sidecar: None, rules: Vec::new() };

        let world = World::default();
        let log = NamedProvider { name: "log".into(), provider: None };
        let log = AccessLog { provider: ByPtr(Arc::new(log)), collector: None, filter: None };
        let reports = Arc::new(SideTelemetry { access_logs: vec![log], ..SideTelemetry::default() });
        let class = class_of(&world, &proxy, &labels, Some(&reports));
        assert_eq!((class.listener.exact_balance, &class.listener.reports), (proxy.exact_balance, &reports));
        let ports = ProxyPorts::default();
        let patching = Patching::none(proxy.kind, proxy.flavour);
        let listeners = ListenersKey {
            scope: scope.clone(),
            class,
            http_proxy_port: None,
            own: Vec::new(),
            ports,
            patching: patching.clone(),
            of_scope: patching.clone(),
        };
        assert!(listeners.shared() == SharedKey { scope, class: class_of(&world, &proxy, &labels, None), patching });
    }
}

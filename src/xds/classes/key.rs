//! What proxies have in common. Proxies with equal keys are sent equal bytes; a key holds exactly what the translation
//! behind it may read.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use crate::{
    mesh::{
        model::{
            ExactBalance, Flavour, GatewayTopology, Labels, Place, PlaceDetail, Proxy, ProxyKind, ProxyPorts, Resolution, Service,
            TelemetryIdentity,
        },
        scope::{Scope, ScopeKey},
        traffic::place_detail,
        world::World,
    },
    translate::{
        input::ProxyClass,
        listener::{holds_own_addresses, outbound::OutboundView},
    },
    visits::{Visit, Visited},
};

/// What proxies have in common that share clusters, endpoints and routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SharedKey {
    pub(super) scope: ScopeKey,
    pub(super) class: ProxyClass,
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
        SharedKey { scope: self.scope.clone(), class: ProxyClass { telemetry: Arc::default(), ..self.class.clone() } }
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

/// Returns the class of a proxy: for listeners with its telemetry names and how it balances, for the rest without them.
pub(super) fn class_of(proxy: &Proxy, distinguishing: &DistinguishingLabels, for_listeners: bool) -> ProxyClass {
    let named = for_listeners && proxy.flavour == Flavour::Istio;
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
        labels: Arc::new(project(&proxy.labels, &distinguishing.routes)),
        telemetry: if named { Arc::clone(&proxy.telemetry) } else { Arc::new(TelemetryIdentity::default()) },
        exact_balance: if for_listeners { proxy.exact_balance } else { ExactBalance::default() },
        topology: if for_listeners && proxy.kind == ProxyKind::Gateway {
            proxy.topology.unwrap_or_default()
        } else {
            GatewayTopology::default()
        },
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

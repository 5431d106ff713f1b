//! Builds a scope from nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use imbl::OrdMap;
use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use super::{EgressScope, Routes, Scope, imports::Imports, key::ScopeKey};
use crate::{
    mesh::{
        model::{Hostname, ProxyKind, Registry, Service},
        policy::destination_rule,
        routing::model::{Destination, HttpRule, RouteSet},
        settings::OutboundTrafficPolicy,
        sidecar::{EgressHost, EgressListener},
        world::{Sidecar, World, views},
    },
    visits::{self, Visit, Visited},
};

/// Returns what proxies of this kind, namespace and labels may see.
#[cfg(test)]
pub fn scope(world: &World, kind: ProxyKind, namespace: &str, labels: &crate::api::Labels) -> Scope {
    scope_of(world, &super::scope_key(world, kind, namespace, labels))
}

/// Returns what proxies of this key may see. The key says all: which proxy it was made for does not matter.
pub fn scope_of(world: &World, key: &ScopeKey) -> Scope {
    let namespace = key.namespace.as_str();
    let sidecar = key.sidecar(world);
    let allow_any = allows_any(world, sidecar.as_deref());
    let listeners = listeners(sidecar.as_deref());
    // Listeners mostly import the same.
    let mut shared: BTreeMap<Option<&[EgressHost]>, Shared> = BTreeMap::new();
    let mut egress = Vec::with_capacity(listeners.len());
    for (listener, hosts) in &listeners {
        let shared = shared.entry(*hosts).or_insert_with(|| Shared::of(world, key, *hosts, listeners.len() > 1));
        egress.push(EgressScope {
            listener: listener.cloned(),
            services: shared.services(namespace, listener.and_then(|listener| listener.port)),
            routes: shared.routes.clone(),
        });
    }
    let services = match &egress[..] {
        [all] if imports(listeners[0].1, namespace).is_all() && all.listener.is_none() => all.services.clone(),
        _ => united(world, namespace, &egress),
    };
    let destination_rules = services
        .iter()
        .visiting(Visited::Service)
        .filter_map(|(host, service)| Some((host.clone(), destination_rule::effective(world, namespace, &key.rules, service)?)))
        .collect();
    Scope { namespace: namespace.into(), sidecar, egress, services, destination_rules, allow_any }
}

/// Returns whether the scope sees everything that is exported to it: then it can be patched name by name.
pub(super) fn sees_all(scope: &Scope) -> bool {
    let all =
        |sidecar: &Arc<Sidecar>| matches!(&listeners(Some(sidecar))[..], [(None, hosts)] if imports(*hosts, &scope.namespace).is_all());
    scope.sidecar.as_ref().is_none_or(all)
}

/// Returns the service of that hostname for proxies of a namespace: its own, then the first by rank.
pub(super) fn best_service<'a>(candidates: impl Iterator<Item = &'a Arc<Service>>, namespace: &str) -> Option<&'a Arc<Service>> {
    let visible = candidates.filter(|service| service.export_to.allows(namespace));
    visible.min_by(|a, b| (a.namespace != namespace, a.rank()).cmp(&(b.namespace != namespace, b.rank())))
}

/// Returns the routes of that host that proxies of a namespace see, in Istio's order; `None` when they see none. Where
/// nothing is left out or moved the list is the one given.
pub(super) fn visible_routes(
    listed: &Arc<Vec<Arc<RouteSet>>>,
    namespace: &str,
    mut is_imported: impl FnMut(&Arc<RouteSet>) -> bool,
) -> Option<Arc<Vec<Arc<RouteSet>>>> {
    visits::count(Visited::Route, listed.len());
    let mut seen = |routes: &Arc<RouteSet>| routes.export_to.allows(namespace) && is_imported(routes);
    if listed.iter().all(&mut seen) && listed.is_sorted_by_key(|routes| routes.order()) {
        return Some(Arc::clone(listed));
    }
    let mut visible: Vec<Arc<RouteSet>> = listed.iter().filter(|routes| seen(routes)).cloned().collect();
    visible.sort_by(|a, b| a.order().cmp(&b.order()));
    (!visible.is_empty()).then(|| Arc::new(visible))
}

pub(super) fn allows_any(world: &World, sidecar: Option<&Sidecar>) -> bool {
    let own = sidecar.and_then(|sidecar| sidecar.spec.outbound_traffic_policy);
    let policy = own.unwrap_or(world.mesh.outbound_traffic_policy);
    policy == OutboundTrafficPolicy::AllowAny
}

/// Returns the listeners of a Sidecar, each with the hosts that it imports; `None`: all.
fn listeners(sidecar: Option<&Sidecar>) -> Vec<(Option<&EgressListener>, Option<&[EgressHost]>)> {
    match sidecar {
        Some(sidecar) if !sidecar.spec.egress.is_empty() => {
            sidecar.spec.egress.iter().map(|egress| (egress.listener.as_ref(), Some(&egress.hosts[..]))).collect()
        }
        _ => vec![(None, None)],
    }
}

fn imports(hosts: Option<&[EgressHost]>, namespace: &str) -> Imports {
    hosts.map_or_else(Imports::all, |hosts| Imports::of(hosts, namespace))
}

/// What the listeners that import the same hosts have in common.
struct Shared {
    /// The imported services of each hostname.
    services: Vec<Vec<Arc<Service>>>,
    /// Which hostnames have a port; empty where only one listener asks.
    by_port: HashMap<u16, BTreeSet<usize>>,
    routes: Routes,
}

impl Shared {
    fn of(world: &World, key: &ScopeKey, hosts: Option<&[EgressHost]>, indexed: bool) -> Self {
        let imports = imports(hosts, &key.namespace);
        let mut services: Vec<Vec<Arc<Service>>> = Vec::new();
        let mut all = world.all_services().visiting(Visited::Service).peekable();
        while let Some(first) = all.next() {
            let mut group = vec![first];
            while let Some(same) = all.next_if(|next| next.hostname == first.hostname) {
                group.push(same);
            }
            let imported = group.into_iter().filter_map(|service| match imports.is_all() {
                true => Some(Arc::clone(service)),
                false => imports.service(service),
            });
            services.push(imported.collect());
        }
        let mut by_port: HashMap<u16, BTreeSet<usize>> = HashMap::new();
        for (at, service) in services.iter().enumerate().filter(|_| indexed).flat_map(|(at, group)| group.iter().map(move |of| (at, of))) {
            service.ports.iter().visiting(Visited::Port).for_each(|port| _ = by_port.entry(port.number).or_default().insert(at));
        }
        let routes = match key.kind {
            ProxyKind::Sidecar => routes(world, &key.namespace, &imports),
            ProxyKind::Gateway => OrdMap::new(),
        };
        Self { services, by_port, routes }
    }

    /// Returns the services that a listener of that port shows.
    fn services(&self, namespace: &str, port: Option<u16>) -> OrdMap<Hostname, Arc<Service>> {
        let best = |group: &Vec<Arc<Service>>| {
            let imported: Vec<Arc<Service>> = group.iter().filter_map(|service| with_port(Arc::clone(service), port)).collect();
            best_service(imported.iter(), namespace).map(|best| (best.hostname.clone(), Arc::clone(best)))
        };
        match port.filter(|port| *port != 0 && !self.by_port.is_empty()) {
            Some(port) => {
                let with_it = self.by_port.get(&port).into_iter().flatten().visiting(Visited::Service);
                with_it.filter_map(|at| best(&self.services[*at])).collect()
            }
            None => self.services.iter().filter_map(best).collect(),
        }
    }
}

/// Returns the service with that port alone; `None` when it has no such port.
fn with_port(service: Arc<Service>, port: Option<u16>) -> Option<Arc<Service>> {
    let Some(port) = port.filter(|port| *port != 0) else { return Some(service) };
    service.port(port)?;
    Some(only_ports(service, &BTreeSet::from([port])))
}

fn only_ports(service: Arc<Service>, ports: &BTreeSet<u16>) -> Arc<Service> {
    if service.ports.iter().all(|port| ports.contains(&port.number)) {
        return service;
    }
    let mut trimmed = Service::clone(&service);
    trimmed.ports.retain(|port| ports.contains(&port.number));
    Arc::new(trimmed)
}

fn routes(world: &World, namespace: &str, imports: &Imports) -> Routes {
    // A set is listed for each of its hosts, and imported by any of them.
    let mut imported: FxHashMap<*const RouteSet, bool> = FxHashMap::default();
    let mut is_imported =
        |routes: &Arc<RouteSet>| imports.is_all() || *imported.entry(Arc::as_ptr(routes)).or_insert_with(|| imports.routes(routes));
    let mut found = Vec::new();
    for (host, listed) in &world.routes_by_host {
        found.extend(visible_routes(listed, namespace, &mut is_imported).map(|visible| (host.clone(), visible)));
    }
    found.into_iter().collect()
}

/// Returns the services of all listeners, then those that only their routes lead to.
fn united(world: &World, namespace: &str, egress: &[EgressScope]) -> OrdMap<Hostname, Arc<Service>> {
    let mut union = Union { world, services: BTreeMap::new() };
    let mut led_to: Vec<(&Routes, LedTo)> = Vec::new();
    for listener in egress {
        for service in listener.services.values().visiting(Visited::Service) {
            union.add(service);
        }
        let known = led_to.iter().position(|(routes, _)| listener.routes.ptr_eq(routes));
        let known = known.unwrap_or_else(|| {
            led_to.push((&listener.routes, LedTo::of(world, namespace, &listener.routes)));
            led_to.len() - 1
        });
        let port = listener.listener.as_ref().and_then(|listener| listener.port);
        for service in led_to[known].1.at(port) {
            union.add(&service);
        }
    }
    union.services.into_iter().collect()
}

/// The services that routes lead to, in the order of the routes, each with the ports that are named (`None`: any).
struct LedTo {
    services: Vec<(Arc<Service>, BTreeSet<Option<u16>>)>,
    by_port: HashMap<u16, Vec<usize>>,
}

impl LedTo {
    fn of(world: &World, namespace: &str, routes: &Routes) -> Self {
        let mut routes: Vec<&Arc<RouteSet>> = routes.values().flat_map(|listed| listed.iter()).visiting(Visited::Route).collect();
        routes.sort_by(|a, b| a.order().cmp(&b.order()));
        routes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let destinations = routes.into_iter().flat_map(|routes| destinations(routes, namespace));
        let known = destinations.filter_map(|(host, ports)| Some((best_service(world.services_named(&host), namespace)?.clone(), ports)));
        let services: Vec<(Arc<Service>, BTreeSet<Option<u16>>)> = known.collect();
        let mut by_port: HashMap<u16, Vec<usize>> = HashMap::new();
        for (at, (service, _)) in services.iter().enumerate() {
            service.ports.iter().for_each(|port| by_port.entry(port.number).or_default().push(at));
        }
        Self { services, by_port }
    }

    /// Returns the services for a listener of that port.
    fn at(&self, port: Option<u16>) -> Vec<Arc<Service>> {
        let wanted = |(service, ports): &(Arc<Service>, BTreeSet<Option<u16>>)| {
            let service = Arc::clone(service);
            let wanted = match port {
                Some(port) => with_port(service, Some(port)),
                None if ports.contains(&None) => Some(service),
                None => Some(only_ports(service, &ports.iter().copied().flatten().collect())),
            };
            wanted.filter(|service| !service.ports.is_empty())
        };
        match port.filter(|port| *port != 0) {
            Some(port) => self.by_port.get(&port).into_iter().flatten().filter_map(|at| wanted(&self.services[*at])).collect(),
            None => self.services.iter().filter_map(wanted).collect(),
        }
    }
}

struct Union<'a> {
    world: &'a World,
    services: BTreeMap<Hostname, Arc<Service>>,
}

impl Union<'_> {
    /// Adds a service. The first of a hostname stays, unless a Kubernetes service comes after one that is none; ports
    /// of one service that several listeners show are put together.
    fn add(&mut self, service: &Arc<Service>) {
        let Some(existing) = self.services.get_mut(&service.hostname) else {
            self.services.insert(service.hostname.clone(), Arc::clone(service));
            return;
        };
        if existing.namespace != service.namespace || existing.registry != service.registry {
            if service.registry < existing.registry {
                *existing = Arc::clone(service);
            }
            return;
        }
        if Arc::ptr_eq(existing, service) {
            return;
        }
        let both: BTreeSet<u16> = existing.ports.iter().chain(&service.ports).map(|port| port.number).collect();
        let whole = self.world.services.get(&service.key()).and_then(|first| views(first).find(|view| view.origin == service.origin));
        let Some(whole) = whole else { return };
        if both.len() == existing.ports.len() && existing.aliases == service.aliases {
            return;
        }
        let mut aliases: Vec<Hostname> = existing.aliases.iter().chain(&service.aliases).cloned().collect();
        aliases.sort();
        aliases.dedup();
        let whole = only_ports(Arc::clone(whole), &both);
        *existing = if whole.aliases == aliases { whole } else { Arc::new(Service { aliases, ..Service::clone(&whole) }) };
    }
}

/// Returns the hosts that routes lead to for clients of a namespace, with the ports that they name (`None`: any).
fn destinations(routes: &RouteSet, namespace: &str) -> BTreeMap<Hostname, BTreeSet<Option<u16>>> {
    let for_us = |source: Option<&SmolStr>| source.is_none_or(|source| source == namespace);
    let mut found: BTreeMap<Hostname, BTreeSet<Option<u16>>> = BTreeMap::new();
    let mut add = |destination: &Destination| _ = found.entry(destination.host.clone()).or_default().insert(destination.port);
    let http =
        routes.http.iter().filter(|route| route.matches.is_empty() || route.matches.iter().any(|m| for_us(m.source_namespace.as_ref())));
    http.flat_map(HttpRule::destinations).for_each(&mut add);
    for rule in routes.tls.iter().chain(&routes.tcp) {
        if rule.matches.is_empty() || rule.matches.iter().any(|m| for_us(m.source_namespace.as_ref())) {
            rule.destinations.iter().for_each(|weighted| add(&weighted.destination));
        }
    }
    found
}

/// Kubernetes' own services come before all others of a hostname.
const _: () = assert!((Registry::Kubernetes as u8) < Registry::External as u8);

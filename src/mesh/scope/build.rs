//! Builds a scope from nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use super::{EgressScope, Scope, imports::Imports, key::ScopeKey};
use crate::{
    mesh::{
        model::{Hostname, ProxyKind, Registry, Service},
        policy::destination_rule,
        routing::model::{Destination, HttpRule, RouteSet},
        settings::OutboundTrafficPolicy,
        sidecar::EgressListener,
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
    let listeners = listeners(sidecar.as_deref(), namespace);
    let egress: Vec<EgressScope> = listeners
        .iter()
        .map(|(listener, imports)| EgressScope {
            listener: listener.clone(),
            services: services(world, namespace, listener.as_ref(), imports),
            routes: match key.kind {
                ProxyKind::Sidecar => routes(world, namespace, imports),
                ProxyKind::Gateway => OrdMap::new(),
            },
        })
        .collect();
    let services = match &egress[..] {
        [all] if listeners[0].1.is_all() && all.listener.is_none() => all.services.clone(),
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
    let all = |sidecar: &Arc<Sidecar>| {
        let listeners = listeners(Some(sidecar), &scope.namespace);
        matches!(&listeners[..], [(None, imports)] if imports.is_all())
    };
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

fn listeners(sidecar: Option<&Sidecar>, namespace: &str) -> Vec<(Option<EgressListener>, Imports)> {
    match sidecar {
        Some(sidecar) if !sidecar.spec.egress.is_empty() => {
            sidecar.spec.egress.iter().map(|egress| (egress.listener.clone(), Imports::of(&egress.hosts, namespace))).collect()
        }
        _ => vec![(None, Imports::all())],
    }
}

fn services(world: &World, namespace: &str, listener: Option<&EgressListener>, imports: &Imports) -> OrdMap<Hostname, Arc<Service>> {
    let port = listener.and_then(|listener| listener.port);
    let mut chosen: Vec<(Hostname, Arc<Service>)> = Vec::new();
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
        let imported: Vec<Arc<Service>> = imported.filter_map(|service| with_port(service, port)).collect();
        if let Some(best) = best_service(imported.iter(), namespace) {
            chosen.push((best.hostname.clone(), Arc::clone(best)));
        }
    }
    chosen.into_iter().collect()
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

fn routes(world: &World, namespace: &str, imports: &Imports) -> OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>> {
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
    for listener in egress {
        for service in listener.services.values().visiting(Visited::Service) {
            union.add(service);
        }
        let mut routes: Vec<&Arc<RouteSet>> = listener.routes.values().flat_map(|listed| listed.iter()).visiting(Visited::Route).collect();
        routes.sort_by(|a, b| a.order().cmp(&b.order()));
        routes.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for routes in routes {
            for (host, ports) in destinations(routes, namespace) {
                let Some(service) = best_service(world.services_named(&host), namespace) else { continue };
                let port = listener.listener.as_ref().and_then(|listener| listener.port);
                let wanted = match port {
                    Some(port) => with_port(Arc::clone(service), Some(port)),
                    None if ports.contains(&None) => Some(Arc::clone(service)),
                    None => Some(only_ports(Arc::clone(service), &ports.into_iter().flatten().collect())),
                };
                if let Some(service) = wanted.filter(|service| !service.ports.is_empty()) {
                    union.add(&service);
                }
            }
        }
    }
    union.services.into_iter().collect()
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

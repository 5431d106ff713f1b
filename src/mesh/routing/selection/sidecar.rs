//! Which sets have the HTTP requests of which services and hosts, at one port of a sidecar (contract §3.6).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use imbl::OrdMap;

use super::{Backends, HttpSelection, RouteContext};
use crate::{
    mesh::{
        model::{Hostname, Protocol, Service, ServicePort},
        routing::model::RouteSet,
    },
    visits::{Visit, Visited},
};

/// The only port at which hosts are routed that no service has.
pub const DEFAULT_HTTP_PORT: u16 = 80;

/// The rules of one set that apply, and to what.
#[derive(Clone, Debug)]
pub struct SelectedRoutes<'a> {
    /// The rules.
    pub selection: Arc<HttpSelection>,
    /// Services whose requests they have.
    pub services: Vec<&'a Arc<Service>>,
    /// Hosts of the set that stand for no service.
    pub hosts: Vec<&'a Hostname>,
}

/// Selects for each service, and for each host that stands for none, the set that has its requests.
///
/// `routes` are those that the proxy sees, by host and in Istio's order; `services` those that have the port, whatever
/// is spoken there.
pub fn sidecar_routes<'a>(
    routes: &'a OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>,
    services: &BTreeMap<&'a Hostname, &'a Arc<Service>>,
    context: &RouteContext<'_>,
    backends: Backends<'_>,
) -> Vec<SelectedRoutes<'a>> {
    let wildcards = by_wildcard(routes, services);
    let (mut selected, hosts) = winners(routes, &wildcards, context, backends);
    for (position, host) in hosts {
        let Some(entry) = selected.get_mut(position) else { continue };
        match services.get(host) {
            Some(service) if !host.is_wildcard() => entry.services.push(service),
            _ => match wildcards.get(host) {
                Some(nearest) => entry.services.extend(nearest),
                None => entry.hosts.push(host),
            },
        }
    }
    for entry in &mut selected {
        entry.services.retain(|service| http_port(service, context.port).is_some());
    }
    selected.retain(|entry| context.port == DEFAULT_HTTP_PORT || !entry.services.is_empty());
    selected
}

/// Returns the port of a service if HTTP is spoken there, or may be.
pub fn http_port(service: &Service, number: u16) -> Option<&ServicePort> {
    service.port(number).filter(|port| port.protocol.is_http() || port.protocol == Protocol::Auto)
}

/// Returns the wildcards that stand for services, each with the services that no other host of a route is nearer to.
fn by_wildcard<'a>(
    routes: &'a OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>,
    services: &BTreeMap<&'a Hostname, &'a Arc<Service>>,
) -> BTreeMap<&'a Hostname, Vec<&'a Arc<Service>>> {
    let mut found: BTreeMap<&Hostname, Vec<&Arc<Service>>> = BTreeMap::new();
    // Wildcards sort before names.
    if routes.get_min().is_some_and(|(first, _)| first.is_wildcard()) {
        for (name, service) in services {
            for (at, (host, _)) in name.covering(routes).enumerate().filter(|(_, (host, _))| host.is_wildcard()) {
                let nearest = found.entry(host).or_default();
                nearest.extend((at == 0).then_some(*service));
            }
        }
    }
    found
}

/// A host, and the position of the set that wins it.
type Winner<'a> = (usize, &'a Hostname);

/// Returns the set that wins each host; every set is selected from once. A wildcard that stands for services has its
/// first set or none; any other host has the first set that says something for this proxy.
fn winners<'a>(
    routes: &'a OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>,
    wildcards: &BTreeMap<&'a Hostname, Vec<&'a Arc<Service>>>,
    context: &RouteContext<'_>,
    backends: Backends<'_>,
) -> (Vec<SelectedRoutes<'a>>, Vec<Winner<'a>>) {
    let mut selected: Vec<SelectedRoutes<'a>> = Vec::new();
    let mut positions: HashMap<*const RouteSet, Option<usize>> = HashMap::new();
    let mut position = |set: &Arc<RouteSet>| {
        *positions.entry(Arc::as_ptr(set)).or_insert_with(|| {
            let selection = HttpSelection::of(set, context, backends)?.into();
            selected.push(SelectedRoutes { selection, services: Vec::new(), hosts: Vec::new() });
            Some(selected.len() - 1)
        })
    };
    let mut winners = Vec::new();
    for (host, listed) in routes.iter().visiting(Visited::Route) {
        let candidates = if wildcards.contains_key(host) { listed.get(..1).unwrap_or_default() } else { listed.as_slice() };
        winners.extend(candidates.iter().find_map(&mut position).map(|position| (position, host)));
    }
    (selected, winners)
}

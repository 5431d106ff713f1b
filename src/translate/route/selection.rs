//! Which of a VirtualService's routes apply at a place: what is known when routes are made (port, gateway, labels and
//! namespace of the client) is decided here and never sent.

use std::sync::Arc;

use smol_str::SmolStr;

use super::action;
use crate::{
    mesh::{
        model::{Hostname, Labels},
        routing::model::{Destination, GatewayRef, HttpMatch, HttpRule, RouteSet},
        scope::Scope,
        traffic::{EffectiveDestinationRule, HashKey},
    },
    translate::{input::ByPtr, naming},
};

/// Where routes are made for.
pub(super) struct Site<'a> {
    /// The listener's port; at gateways the server's.
    pub(super) port: u16,
    /// `mesh`, or the gateways of the servers.
    pub(super) gateways: &'a [GatewayRef],
    /// The proxy's namespace.
    pub(super) namespace: &'a str,
    /// The proxy's labels.
    pub(super) labels: &'a Labels,
    /// The port is one of TLS that the gateway terminates.
    pub(super) tls: bool,
}

/// The routes of one VirtualService that apply at a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selection {
    pub(super) routes: ByPtr<RouteSet>,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) chosen: Vec<Chosen>,
    /// Every destination of the chosen routes, once.
    pub(super) destinations: Vec<Resolved>,
}

/// A route, with the one match block that holds here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Chosen {
    route: usize,
    block: Option<usize>,
}

/// What a destination means here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Resolved {
    written: Destination,
    host: Hostname,
    port: u16,
    /// The rule of the destination, only where it asks for a consistent hash.
    pub(super) hash: Option<ByPtr<EffectiveDestinationRule>>,
}

/// Selects the routes that apply; `None` when none does.
pub(super) fn select(routes: &Arc<RouteSet>, site: &Site<'_>, scope: &Scope) -> Option<Selection> {
    let chosen = choose(routes, site);
    if chosen.is_empty() {
        return None;
    }
    let mut selection = Selection { routes: routes.into(), port: site.port, tls: site.tls, chosen, destinations: Vec::new() };
    let mut destinations = Vec::new();
    for chosen in &selection.chosen {
        let Some((route, _)) = chosen.of(routes) else { continue };
        for destination in route.destinations() {
            if !destinations.iter().any(|resolved: &Resolved| resolved.written == *destination) {
                destinations.push(resolve(destination, site, scope));
            }
        }
    }
    selection.destinations = destinations;
    Some(selection)
}

// Nothing after a route that takes everything can be reached.
fn choose(routes: &RouteSet, site: &Site<'_>) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    for (route, http) in routes.http.iter().enumerate() {
        if http.matches.is_empty() {
            chosen.push(Chosen { route, block: None });
            return chosen;
        }
        for (block, matched) in http.matches.iter().enumerate().filter(|(_, matched)| holds(matched, site)) {
            chosen.push(Chosen { route, block: Some(block) });
            if matched.takes_everything() {
                return chosen;
            }
        }
    }
    chosen
}

// Labels and namespace of the client count only where the block names no gateways.
fn holds(block: &HttpMatch, site: &Site<'_>) -> bool {
    if block.port.is_some_and(|port| port != site.port) {
        return false;
    }
    if !block.gateways.is_empty() {
        return block.gateways.iter().any(|gateway| site.gateways.contains(gateway));
    }
    let labelled = block.source_labels.iter().all(|(key, value)| site.labels.get(key) == Some(value));
    labelled && block.source_namespace.as_ref().is_none_or(|namespace| namespace == site.namespace)
}

// A sidecar knows of a service only the port it listens on; a gateway takes the only port there is (contract §6.2).
fn resolve(destination: &Destination, site: &Site<'_>, scope: &Scope) -> Resolved {
    let at_gateway = !site.gateways.contains(&GatewayRef::Mesh);
    let service = scope.services.get(&destination.host);
    let inferred = match service.map(|service| service.ports.as_slice()) {
        Some([only]) if at_gateway => only.number,
        _ => site.port,
    };
    let host = service.and_then(|service| service.external_name.clone()).unwrap_or_else(|| destination.host.clone());
    let port = destination.port.unwrap_or(inferred);
    let rule = scope.destination_rules.get(&host);
    let hash = rule.filter(|rule| action::hash(rule, &destination.subset, port).is_some()).map(Into::into);
    Resolved { written: destination.clone(), host, port, hash }
}

impl Selection {
    /// The chosen routes with their match blocks.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&HttpRule, Option<&HttpMatch>)> {
        self.chosen.iter().filter_map(|chosen| chosen.of(&self.routes))
    }

    /// What a destination means here.
    pub(super) fn resolved(&self, destination: &Destination) -> Option<&Resolved> {
        self.destinations.iter().find(|resolved| resolved.written == *destination)
    }
}

impl Chosen {
    fn of(self, routes: &RouteSet) -> Option<(&HttpRule, Option<&HttpMatch>)> {
        let route = routes.http.get(self.route)?;
        Some((route, self.block.and_then(|block| route.matches.get(block))))
    }
}

impl Resolved {
    pub(super) fn cluster(&self) -> SmolStr {
        naming::outbound_cluster(self.port, &self.written.subset, &self.host)
    }

    /// `host:port` of the destination, for the name of a trace's span.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The key of the consistent hash, where there is one.
    pub(super) fn hash(&self) -> Option<&HashKey> {
        action::hash(self.hash.as_deref()?, &self.written.subset, self.port)
    }
}

//! The HTTP rules of one set that apply at a listener, with their destinations resolved.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;

use super::{Backends, RouteContext};
use crate::{
    mesh::{
        by_ptr::ByPtr,
        model::Hostname,
        routing::model::{Destination, GatewayRef, HttpMatch, HttpRule, RouteSet},
        traffic::{EffectiveDestinationRule, HashKey},
    },
    visits::{Visit, Visited},
};

/// The HTTP rules of one set that apply at a listener.
///
/// It holds all that decides how the rules are translated and compares by that, so it can be the key of a memo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpSelection {
    /// The set.
    pub routes: ByPtr<RouteSet>,
    /// The listener's port; at gateways the server's.
    pub port: u16,
    /// Whether it is a gateway's: what is in a request's token is known there.
    pub at_gateway: bool,
    chosen: Vec<Chosen>,
    /// Every destination of the chosen rules, once, sorted.
    destinations: Vec<ResolvedDestination>,
}

/// A rule, with the one match of it that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Chosen {
    rule: usize,
    matched: Option<usize>,
}

/// What a destination means at a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResolvedDestination {
    written: Destination,
    /// Where requests go; what an ExternalName service stands for.
    pub host: Hostname,
    /// The service port.
    pub port: u16,
    /// The rule of the destination, only where it asks for a consistent hash.
    rule: Option<ByPtr<EffectiveDestinationRule>>,
}

impl HttpSelection {
    /// Selects the rules that apply; `None` when none does.
    pub fn of(routes: &Arc<RouteSet>, context: &RouteContext<'_>, backends: Backends<'_>) -> Option<Self> {
        let chosen = choose(routes, context);
        if chosen.is_empty() {
            return None;
        }
        let at_gateway = *context.gateway != GatewayRef::Mesh;
        let mut selection = Self { routes: routes.into(), port: context.port, at_gateway, chosen, destinations: Vec::new() };
        let written: BTreeSet<&Destination> =
            selection.rules().flat_map(|(rule, _)| rule.destinations()).visiting(Visited::Written).collect();
        selection.destinations = written.into_iter().map(|destination| ResolvedDestination::of(destination, context, backends)).collect();
        Some(selection)
    }

    /// Returns the rules in order, each once for each match that holds; `None` matches everything.
    pub fn rules(&self) -> impl Iterator<Item = (&HttpRule, Option<&HttpMatch>)> {
        self.chosen.iter().filter_map(|chosen| {
            let rule = self.routes.http.get(chosen.rule)?;
            Some((rule, chosen.matched.and_then(|matched| rule.matches.get(matched))))
        })
    }

    /// Returns about how many bytes these rules are in one table.
    pub fn weight(&self) -> usize {
        self.chosen.iter().filter_map(|chosen| self.routes.weights.get(chosen.rule)).sum()
    }

    /// Returns what a destination of these rules means.
    pub fn resolved(&self, destination: &Destination) -> Option<&ResolvedDestination> {
        let at = self.destinations.binary_search_by(|resolved| resolved.written.cmp(destination)).ok()?;
        self.destinations.get(at)
    }
}

impl ResolvedDestination {
    // A sidecar knows of a service only the port it listens on; a gateway takes the only port there is (contract §6.2).
    fn of(destination: &Destination, context: &RouteContext<'_>, backends: Backends<'_>) -> Self {
        let service = backends.services.get(&destination.host);
        let inferred = match service.map(|service| service.ports.as_slice()) {
            Some([only]) if *context.gateway != GatewayRef::Mesh => only.number,
            _ => context.port,
        };
        let host = service.and_then(|service| service.external_name.clone()).unwrap_or_else(|| destination.host.clone());
        let port = destination.port.unwrap_or(inferred);
        let rule = backends.destination_rules.get(&host);
        let rule = rule.filter(|rule| rule.hash_key(&destination.subset, port).is_some()).map(Into::into);
        Self { written: destination.clone(), host, port, rule }
    }

    /// Returns the subset of the service; empty: all of it.
    pub fn subset(&self) -> &SmolStr {
        &self.written.subset
    }

    /// Returns the key of the consistent hash, where there is one.
    pub fn hash_key(&self) -> Option<&HashKey> {
        self.rule.as_deref()?.hash_key(self.subset(), self.port)
    }
}

// Nothing after a match that takes everything can be reached.
fn choose(routes: &RouteSet, context: &RouteContext<'_>) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    for (at, rule) in routes.http.iter().enumerate() {
        if rule.matches.is_empty() {
            chosen.push(Chosen { rule: at, matched: None });
            return chosen;
        }
        for (matched, of) in rule.matches.iter().enumerate().filter(|(_, matched)| holds(matched, context)) {
            chosen.push(Chosen { rule: at, matched: Some(matched) });
            if of.takes_everything() {
                return chosen;
            }
        }
    }
    chosen
}

// All that a match asks for must hold, gateways and the client alike. (In istiod, gateways make up for the client.)
fn holds(matched: &HttpMatch, context: &RouteContext<'_>) -> bool {
    let from_client = context.client.is_none_or(|client| {
        client.has(&matched.source_labels) && matched.source_namespace.as_ref().is_none_or(|namespace| namespace == client.namespace)
    });
    from_client
        && matched.port.is_none_or(|port| port == context.port)
        && (matched.gateways.is_empty() || matched.gateways.contains(context.gateway))
}

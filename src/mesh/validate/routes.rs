//! VirtualServices: destinations, subsets, gateways, hosts that another one has.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api::{ConfigId, Diagnostic},
    mesh::{
        model::{Hostname, Service, Visibility},
        policy::destination_rule,
        routing::model::{Destination, GatewayRef, HttpAction, RouteSet, RuleSource, WeightedDestination},
        traffic::EffectiveDestinationRule,
        world::{Gateway, World},
    },
    visits::{self, Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for routes in world.routes.values().visiting(Visited::Route) {
        Check { world, routes, found: &mut found }.run();
    }
    for (host, listed) in &world.routes_by_host {
        visits::count(Visited::Route, listed.len());
        found.extend(listed.iter().enumerate().filter_map(|(at, routes)| conflict(host, routes, &listed[..at])));
    }
    found
}

/// Returns what is doubtful about the routes of one VirtualService.
pub(super) fn of(world: &World, routes: &RouteSet) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    Check { world, routes, found: &mut found }.run();
    for host in routes.hosts.iter().collect::<BTreeSet<_>>() {
        let listed = world.routes_by_host.get(host).map(|listed| listed.as_slice()).unwrap_or_default();
        let at = listed.iter().position(|other| other.origin.object == routes.origin.object);
        found.extend(at.and_then(|at| conflict(host, routes, &listed[..at])));
    }
    found
}

/// Returns the finding that the routes for a host are ignored. An older VirtualService for the same host wins wherever
/// both are seen and it has routes; there is no merging (contract §6.2).
fn conflict(host: &Hostname, routes: &RouteSet, older: &[Arc<RouteSet>]) -> Option<Diagnostic> {
    let winner = older.iter().find(|older| meet(&older.export_to, &routes.export_to))?;
    let message = format!(
        "{host} is routed by {} too, which goes first by age, then name: these routes are ignored for proxies and ports that it has any for",
        winner.origin.object
    );
    let at = routes.hosts.iter().position(|written| written == host).unwrap_or_default();
    Some(Diagnostic::warning(format!("spec.hosts[{at}]"), message).of(&routes.origin.object))
}

/// Returns whether neither is narrower than the other and some namespace sees both. (The narrower of two wins on purpose.)
fn meet(a: &Visibility, b: &Visibility) -> bool {
    match (a, b) {
        (Visibility::Public, Visibility::Public) => true,
        (Visibility::Namespaces(a), Visibility::Namespaces(b)) => a.iter().any(|name| b.contains(name)),
        _ => false,
    }
}

struct Check<'a> {
    world: &'a World,
    routes: &'a RouteSet,
    found: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    fn run(&mut self) {
        self.destinations();
        self.gateways();
    }

    fn warn(&mut self, field: impl Into<String>, message: String) {
        self.found.push(Diagnostic::warning(field, message).of(&self.routes.origin.object));
    }

    fn destinations(&mut self) {
        let routes = self.routes;
        // A delegate's rules are not fields of this object: of one that delegates, only the list is named.
        let at = |source: &RuleSource| match routes.merged.is_empty() {
            true => source.field.to_string(),
            false => source.field.split('[').next().unwrap_or_default().to_owned(),
        };
        for rule in &routes.http {
            let field = at(&rule.source);
            if let HttpAction::Forward(weighted) = &rule.action {
                self.weighted(&field, weighted);
            }
            for mirror in &rule.mirrors {
                self.destination(&format!("{field}.mirror"), &mirror.destination);
            }
        }
        for rule in routes.tls.iter().chain(&routes.tcp) {
            self.weighted(&at(&rule.source), &rule.destinations);
        }
    }

    fn weighted(&mut self, field: &str, destinations: &[WeightedDestination]) {
        for (index, weighted) in destinations.iter().enumerate() {
            self.destination(&format!("{field}.route[{index}].destination"), &weighted.destination);
        }
    }

    fn destination(&mut self, field: &str, destination: &Destination) {
        let host = &destination.host;
        let namespace = &self.routes.namespace;
        let candidates = self.world.services_named(host).filter(|service| service.export_to.allows(namespace));
        let Some(service) = candidates.min_by_key(|service| service.namespace != *namespace) else {
            let wildcard = self
                .world
                .services
                .values()
                .visiting(Visited::Service)
                .any(|service| service.hostname.is_wildcard() && service.hostname.covers(host));
            if !wildcard {
                self.warn(format!("{field}.host"), format!("no service has the host {host}; requests get 503"));
            }
            return;
        };
        if let Some(port) = destination.port.filter(|port| service.external_name.is_none() && service.port(*port).is_none()) {
            self.warn(format!("{field}.port"), format!("{host} has no port {port}; requests get 503"));
        }
        self.subset(field, destination, service);
    }

    fn subset(&mut self, field: &str, destination: &Destination, service: &Service) {
        let subset = &destination.subset;
        if subset.is_empty() {
            return;
        }
        let rule = destination_rule::effective(self.world, &self.routes.namespace, &[], service);
        if rule.as_ref().is_some_and(|rule| rule.subsets.iter().any(|known| known.name == *subset)) {
            return;
        }
        let message = format!(
            "subset {subset} of {} is defined by no DestinationRule; requests get 503{}",
            destination.host,
            rule.map(|rule| known_subsets(&rule)).unwrap_or_default()
        );
        self.warn(format!("{field}.subset"), message);
    }

    fn gateways(&mut self) {
        let mut bound = Vec::new();
        for (index, gateway) in self.routes.gateways.iter().enumerate() {
            let GatewayRef::Object(ConfigId { namespace, name, .. }) = gateway else { continue };
            match self.world.gateways.get(&(namespace.clone(), name.clone())) {
                Some(gateway) => bound.push(gateway),
                None => self.warn(format!("spec.gateways[{index}]"), format!("there is no Gateway {namespace}/{name}")),
            }
        }
        let all_found = bound.len() == self.routes.gateways.len();
        let taken = self.routes.hosts.iter().any(|host| bound.iter().any(|gateway| takes(gateway, host)));
        if all_found && !bound.is_empty() && !taken {
            let names: BTreeSet<String> = bound.iter().map(|gateway| gateway.origin.object.to_string()).collect();
            let names: Vec<String> = names.into_iter().collect();
            self.warn("spec.hosts", format!("none of these hosts is among those of {}: nothing reaches these routes", names.join(", ")));
        }
    }
}

fn known_subsets(rule: &EffectiveDestinationRule) -> String {
    let rules: Vec<String> = rule.origins.iter().map(|origin| origin.object.to_string()).collect();
    let names: Vec<&str> = rule.subsets.iter().map(|subset| subset.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!(" ({} defines: {names})", rules.join(", "))
}

/// Returns whether some listener of a Gateway has a host that overlaps.
fn takes(gateway: &Gateway, host: &Hostname) -> bool {
    gateway.spec.listeners.iter().flat_map(|listener| &listener.hosts).any(|of| of.host.overlaps(host))
}

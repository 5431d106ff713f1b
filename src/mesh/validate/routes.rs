//! VirtualServices: destinations, subsets, gateways, hosts that another one has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::lookups::{Known, Lookups};
use crate::{
    api::{ConfigId, Diagnostic, host_index::HostIndex},
    mesh::{
        first_seen::FirstSeen,
        model::Hostname,
        routing::{
            model::{Destination, GatewayRef, HttpAction, RouteSet, RuleSource, WeightedDestination},
            weight::is_too_much,
        },
        traffic::EffectiveDestinationRule,
        unsupported::CLAIMS_AT_SIDECARS,
        world::{Gateway, NamedKey, World},
    },
    patience::Patient,
    visits::{self, Visit, Visited},
};

/// Routes of so few bytes may be in any number of tables: whose they are is not asked of all services.
const SMALL: usize = 4 << 10;

/// How many subsets are named of a rule that lacks one.
const MOST_NAMED: usize = 20;

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let lookups = Lookups::of(world);
    for routes in world.routes.values().visiting(Visited::Route) {
        Check { world, lookups: &lookups, routes, found: &mut found }.run();
    }
    let mut places = BTreeMap::new();
    for (host, listed) in &world.routes_by_host {
        visits::count(Visited::Route, listed.len());
        let mut first = FirstSeen::default();
        for (at, routes) in listed.iter().enumerate().filter(|_| listed.len() > 1) {
            if let Some(winner) = first.as_wide_as(&routes.export_to) {
                let places = places.entry(&routes.origin.object).or_insert_with(|| places_of(routes));
                found.push(conflict(host, places, routes, &listed[winner]));
            }
            first.add(at, &routes.export_to);
        }
    }
    found
}

/// Returns what is doubtful about the routes of one VirtualService: about its own and those that it takes over from delegates, or,
/// where it is a delegate, about what others take over from it.
pub(super) fn of(world: &World, key: &NamedKey) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let lookups = Lookups::of(world);
    for root in world.routes_by_delegate.get(key).into_iter().flat_map(|roots| roots.iter()) {
        Check { world, lookups: &lookups, routes: root, found: &mut found }.run();
    }
    found.retain(|finding| finding.object.as_ref().is_some_and(|of| (&of.namespace, &of.name) == (&key.0, &key.1)));
    let Some(routes) = world.routes.get(key) else { return found };
    Check { world, lookups: &lookups, routes, found: &mut found }.run();
    let places = places_of(routes);
    for host in routes.hosts.iter().collect::<BTreeSet<_>>().into_iter().patiently() {
        let listed = world.routes_by_host.get(host).map(|listed| listed.as_slice()).unwrap_or_default();
        let mut first = FirstSeen::default();
        let older = listed.iter().take_while(|other| other.origin.object != routes.origin.object);
        older.patiently().visiting(Visited::Route).enumerate().for_each(|(at, older)| first.add(at, &older.export_to));
        found.extend(first.as_wide_as(&routes.export_to).map(|winner| conflict(host, &places, routes, &listed[winner])));
    }
    found
}

/// Returns the finding that the routes for a host are ignored. An older VirtualService for the same host wins wherever both are seen
/// and it has routes; there is no merging (contract §6.2).
fn conflict(host: &Hostname, places: &Places<'_>, routes: &RouteSet, winner: &RouteSet) -> Diagnostic {
    let message = format!(
        "{host} is routed by {} too, which goes first by age, then name: these routes are ignored for proxies and ports that it has any for",
        winner.origin.object
    );
    let at = places.get(host).copied().unwrap_or_default();
    Diagnostic::warning(format!("spec.hosts[{at}]"), message).of(&routes.origin.object)
}

/// Where among its hosts a VirtualService has each.
type Places<'a> = BTreeMap<&'a Hostname, usize>;

fn places_of(routes: &RouteSet) -> Places<'_> {
    // The first of equal ones counts.
    routes.hosts.iter().enumerate().rev().visiting(Visited::Written).map(|(at, host)| (host, at)).collect()
}

struct Check<'a, 'w> {
    world: &'w World,
    lookups: &'a Lookups<'w>,
    routes: &'a RouteSet,
    found: &'a mut Vec<Diagnostic>,
}

impl<'w> Check<'_, 'w> {
    fn run(&mut self) {
        self.destinations();
        self.gateways();
        self.unreachable();
        self.left_out();
        self.too_many();
        self.claims_of_delegates();
    }

    // Of what the set itself has, `mesh::unsupported` tells.
    fn claims_of_delegates(&mut self) {
        if !self.routes.applies_at(&GatewayRef::Mesh) {
            return;
        }
        let own = &self.routes.origin.object;
        let at_sidecars = |gateways: &[GatewayRef]| gateways.is_empty() || gateways.contains(&GatewayRef::Mesh);
        let of_delegates = self.routes.http.iter().patiently().filter(|rule| rule.source.origin.object != *own);
        let by_claims =
            of_delegates.filter(|rule| rule.matches.iter().any(|matched| !matched.claims.is_empty() && at_sidecars(&matched.gateways)));
        self.found.extend(
            by_claims
                .map(|rule| Diagnostic::error(format!("{}.match", rule.source.field), CLAIMS_AT_SIDECARS).of(&rule.source.origin.object)),
        );
    }

    fn warn(&mut self, field: impl Into<String>, message: String) {
        self.found.push(Diagnostic::warning(field, message).of(&self.routes.origin.object));
    }

    fn warn_at(&mut self, source: &RuleSource, field: &str, message: String) {
        self.found.push(Diagnostic::warning(format!("{}{field}", source.field), message).of(&source.origin.object));
    }

    fn destinations(&mut self) {
        for rule in self.routes.http.iter().patiently() {
            if let HttpAction::Forward(weighted) = &rule.action {
                self.weighted(&rule.source, weighted);
            }
            for mirror in &rule.mirrors {
                self.destination(&mirror.source, "", &mirror.destination);
            }
        }
        for rule in self.routes.tls.iter().chain(&self.routes.tcp) {
            self.weighted(&rule.source, &rule.destinations);
        }
    }

    /// Warns of what no request reaches, because it stands behind a match that takes everything for everyone.
    fn unreachable(&mut self) {
        let mut all: Option<&RuleSource> = None;
        for rule in self.routes.http.iter().patiently() {
            let source = &rule.source;
            if let Some(all) = all {
                self.without_effect(source, "", all);
                continue;
            }
            let first = rule.matches.iter().position(|matched| matched.takes_everything() && matched.holds_everywhere());
            for index in first.map_or(rule.matches.len(), |first| first + 1)..rule.matches.len() {
                self.without_effect(source, &format!(".match[{index}]"), source);
            }
            if rule.matches.is_empty() || first.is_some() {
                all = Some(source);
            }
        }
    }

    fn without_effect(&mut self, source: &RuleSource, field: &str, all: &RuleSource) {
        let named = if all.origin == source.origin { all.field.to_string() } else { format!("{} {}", all.origin.object, all.field) };
        self.warn_at(source, field, format!("has no effect: {named} before it matches every request"));
    }

    /// Finds out whether these are too many routes for the ports that their hosts have.
    fn too_many(&mut self) {
        let weight: usize = self.routes.http.iter().zip(&self.routes.weights).map(|(rule, each)| rule.matches.len().max(1) * each).sum();
        let (wildcards, names): (Vec<&Hostname>, Vec<&Hostname>) = self.routes.hosts.iter().partition(|host| host.is_wildcard());
        let wildcards: HostIndex = wildcards.iter().map(|host| host.as_str()).collect();
        let named = names.into_iter().patiently().filter_map(|host| self.world.services_named(host).next());
        let all = (!wildcards.is_empty() && weight > SMALL).then(|| self.world.all_services().visiting(Visited::Service));
        let covered = all.into_iter().flatten().filter(|service| wildcards.covering(service.hostname.as_str()).is_some());
        if self.routes.applies_at(&GatewayRef::Mesh) && is_too_much(weight, named.chain(covered).map(|service| &**service)) {
            let message = "are too many routes for all the ports that these hosts have, each of which has them all: proxies that see these \
                           services get none, and requests get 503";
            self.found.push(Diagnostic::error("spec.http", message).of(&self.routes.origin.object));
        }
    }

    fn left_out(&mut self) {
        for rule in &self.routes.left_out {
            self.warn_at(&rule.source, rule.field, format!("{}: the route is left out", rule.reason));
        }
    }

    fn weighted(&mut self, rule: &RuleSource, destinations: &[WeightedDestination]) {
        for (index, weighted) in destinations.iter().enumerate() {
            self.destination(rule, &format!(".route[{index}].destination"), &weighted.destination);
        }
    }

    fn destination(&mut self, source: &RuleSource, field: &str, destination: &Destination) {
        let host = &destination.host;
        let namespace = &self.routes.namespace;
        let Some(known) = self.lookups.destination(namespace, host) else {
            if !self.lookups.is_covered(host) {
                self.warn_at(source, &format!("{field}.host"), format!("no service has the host {host}; requests get 503"));
            }
            return;
        };
        if let Some(port) = destination.port.filter(|port| known.service.external_name.is_none() && !known.has_port(*port)) {
            self.warn_at(source, &format!("{field}.port"), format!("{host} has no port {port}; requests get 503"));
        }
        self.subset(source, field, destination, &known);
    }

    fn subset(&mut self, source: &RuleSource, field: &str, destination: &Destination, known: &Known<'w>) {
        let subset = &destination.subset;
        if subset.is_empty() {
            return;
        }
        let subsets = self.lookups.subsets(&self.routes.namespace, known);
        if subsets.is_some_and(|subsets| subsets.has(subset)) {
            return;
        }
        let message = format!(
            "subset {subset} of {} is defined by no DestinationRule; requests get 503{}",
            destination.host,
            subsets.map(|subsets| known_subsets(&subsets.rule)).unwrap_or_default()
        );
        self.warn_at(source, &format!("{field}.subset"), message);
    }

    fn gateways(&mut self) {
        let mut bound: Vec<&Arc<Gateway>> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut all_found = true;
        // Of a Gateway that is not open as a whole, the hosts of the rest are known alone.
        let mut open = true;
        for (index, gateway) in self.routes.gateways.iter().enumerate() {
            let GatewayRef::Object(id @ ConfigId { namespace, name, .. }) = gateway else {
                all_found = false;
                continue;
            };
            if !seen.insert(id) {
                continue;
            }
            open &= !self.world.unsupported.contains_key(id);
            match self.world.gateways.get(&(namespace.clone(), name.clone())) {
                Some(gateway) => bound.push(gateway),
                None => {
                    all_found = false;
                    self.warn(format!("spec.gateways[{index}]"), format!("there is no Gateway {namespace}/{name}"));
                }
            }
        }
        let is_taken = || bound.iter().patiently().any(|gateway| self.lookups.serves(gateway, &self.routes.hosts));
        if all_found && open && !bound.is_empty() && !is_taken() {
            let names: BTreeSet<String> = bound.iter().map(|gateway| gateway.origin.object.to_string()).collect();
            let names: Vec<String> = names.into_iter().collect();
            self.warn("spec.hosts", format!("none of these hosts is among those of {}: nothing reaches these routes", names.join(", ")));
        }
    }
}

fn known_subsets(rule: &EffectiveDestinationRule) -> String {
    let rules: Vec<String> = rule.origins.iter().map(|origin| origin.object.to_string()).collect();
    let mut names: Vec<&str> = rule.subsets.iter().map(|subset| subset.name.as_str()).take(MOST_NAMED).collect();
    if rule.subsets.len() > MOST_NAMED {
        names.push("…");
    }
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!(" ({} defines: {names})", rules.join(", "))
}

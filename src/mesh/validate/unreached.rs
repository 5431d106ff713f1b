//! Destinations that some proxy has no cluster for: which import, export or port is missing, and at which object.

use std::{collections::BTreeSet, sync::Arc};

use super::{authorization, rate_limits};
use crate::{
    api::{Diagnostic, Kind},
    mesh::{
        model::{Hostname, Origin, Service},
        policy::destination_rule,
        routing::model::{Destination, RouteSet, RuleSource},
        scope::Scope,
        world::World,
    },
};

/// A port and subset of a service that the proxies of a scope are to send to, and cannot.
#[derive(Clone, Copy, Debug)]
pub struct Unreached<'a> {
    /// The mesh.
    pub world: &'a World,
    /// What the proxies see of it.
    pub scope: &'a Scope,
    /// The service.
    pub host: &'a Hostname,
    /// Its port.
    pub port: u16,
    /// Its subset; empty: all of it.
    pub subset: &'a str,
    /// Whether there would be a cluster, if Envoy took it. That is said at the objects that it is made of.
    pub is_left_out: bool,
}

impl Unreached<'_> {
    /// Says what is missing; `origins` are the objects that the routes come from. What is wrong for every proxy is said at
    /// the route already, by the checks of routes.
    pub fn findings(&self, origins: &[Origin]) -> Vec<Diagnostic> {
        let asking = authorization::not_imported(self.world, self.scope, (self.host, self.port), origins);
        if !asking.is_empty() {
            return asking;
        }
        let counting = rate_limits::not_imported(self.world, self.scope, (self.host, self.port));
        if !counting.is_empty() {
            return counting;
        }
        let sets = self.sets(origins);
        let mut written: Vec<_> = sets.iter().flat_map(|set| self.written(set)).collect();
        // Who names the port is meant before those whose port may be another one at this listener.
        if written.iter().any(|(_, _, to)| to.port.is_some()) {
            written.retain(|(_, _, to)| to.port.is_some());
        }
        if written.is_empty() && self.is_left_out {
            return Vec::new();
        }
        if written.is_empty() {
            return self.service().map(|service| self.without_endpoints(&service.origin, "")).into_iter().collect();
        }
        written.into_iter().filter_map(|(set, source, to)| self.finding(set, source, to)).collect()
    }

    /// Returns the routes that the objects have; for listeners that do not say which, all that the proxies see.
    fn sets(&self, origins: &[Origin]) -> Vec<Arc<RouteSet>> {
        let named = origins.iter().filter(|origin| origin.object.kind == Kind::VirtualService);
        let sets: Vec<_> = named
            .filter_map(|origin| self.world.routes.get(&(origin.object.namespace.clone(), origin.object.name.clone())).cloned())
            .filter(|set| self.written(set).next().is_some())
            .collect();
        if !sets.is_empty() || self.service().is_some() {
            return sets;
        }
        let seen = self.scope.egress.iter().flat_map(|egress| egress.routes.values()).flat_map(|listed| listed.iter());
        let mut sets: Vec<_> = seen.filter(|set| self.written(set).next().is_some()).cloned().collect();
        sets.dedup_by(|one, other| Arc::ptr_eq(one, other));
        sets
    }

    /// Returns where a set says to send here.
    fn written<'s>(&'s self, set: &'s RouteSet) -> impl Iterator<Item = (&'s RouteSet, &'s RuleSource, &'s Destination)> {
        let http = set.http.iter().flat_map(|rule| rule.destinations().map(|to| (&rule.source, to)));
        let l4 = set.tls.iter().chain(&set.tcp);
        let l4 = l4.flat_map(|rule| rule.destinations.iter().map(|weighted| (&rule.source, &weighted.destination)));
        let here = http.chain(l4).filter(|(_, to)| {
            let stands_for = || self.scope.services.get(&to.host).and_then(|service| service.external_name.as_ref());
            (to.host == *self.host || stands_for() == Some(self.host))
                && to.subset == self.subset
                && to.port.is_none_or(|port| port == self.port)
        });
        here.map(move |(source, to)| (set, source, to))
    }

    /// Returns the service with that port, if the proxies see it.
    fn service(&self) -> Option<&Arc<Service>> {
        self.scope.services.get(self.host).filter(|service| service.has_cluster_for(self.port))
    }

    fn finding(&self, set: &RouteSet, source: &RuleSource, to: &Destination) -> Option<Diagnostic> {
        let Self { host, port, subset, .. } = self;
        let namespace = &self.scope.namespace;
        let at_route = |message: String| Some(Diagnostic::warning(source.field.clone(), message).of(&source.origin.object));
        if self.is_left_out {
            let of = if subset.is_empty() { format!("port {port}") } else { format!("port {port}, subset {subset},") };
            return at_route(format!("Envoy refuses the cluster that is made for {of} of {host}: requests get 503 until that is mended"));
        }
        if let Some(service) = self.service() {
            if subset.is_empty() {
                return Some(self.without_endpoints(&source.origin, &source.field));
            }
            let told = destination_rule::effective(self.world, &set.namespace, &[], service)
                .is_none_or(|rule| rule.subsets.iter().all(|known| known.name != *subset));
            let message =
                format!("proxies of namespace {namespace} see no DestinationRule that defines subset {subset} of {host}: they answer 503");
            return if told { None } else { at_route(message) };
        }
        let of_port = || self.world.services_named(host).filter(|service| service.has_cluster_for(*port));
        if let Some(imported) = of_port().find(|service| service.export_to.allows(namespace)) {
            let sidecar = self.scope.sidecar.as_ref()?;
            let message = format!(
                "imports no port {port} of {host}, where {} {} sends requests: they get 503 (import {}/{host} by a listener without a port, or with this one)",
                source.origin.object, source.field, imported.namespace
            );
            return Some(Diagnostic::warning("spec.egress", message).of(&sidecar.origin.object));
        }
        if let Some(hidden) = of_port().next() {
            return at_route(format!(
                "{host} ({}) is not exported to namespace {namespace}, whose proxies answer 503",
                hidden.origin.object
            ));
        }
        // A port that is written, or a host that nothing has, is told for all proxies at once.
        let known: BTreeSet<u16> = self.world.services_named(host).flat_map(|service| &service.ports).map(|port| port.number).collect();
        if !known.is_empty() && to.port.is_none() {
            if !self.is_called(set) {
                return None;
            }
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            return at_route(format!(
                "names no port of {host}, which has none that is {port} like the listener's: requests there get 503 (it has {})",
                known.join(", ")
            ));
        }
        let wildcard = self.scope.services.keys().find(|known| known.is_wildcard() && known.covers(host))?;
        known
            .is_empty()
            .then(|| at_route(format!("{host} is only known as {wildcard}, which is no destination: requests get 503")))
            .flatten()
    }

    // Port 80 takes every host that has no service there (as in Istio), services of other ports among them. Nobody calls
    // those at a port that they do not have.
    fn is_called(&self, set: &RouteSet) -> bool {
        set.hosts.iter().any(|host| {
            let mut services = self.world.services_named(host).peekable();
            services.peek().is_none() || services.any(|service| service.has_cluster_for(self.port))
        })
    }

    fn without_endpoints(&self, at: &Origin, field: &str) -> Diagnostic {
        let Self { host, port, .. } = self;
        let message = format!("{host} is found by DNS and has no endpoint for port {port}, so that there is no cluster: requests get 503");
        Diagnostic::warning(field, message).of(&at.object)
    }
}

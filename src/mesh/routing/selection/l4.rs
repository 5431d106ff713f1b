//! The TLS and TCP rules that apply at a listener, as far as that can be decided before a connection exists.

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::{SmolStr, format_smolstr};

use super::RouteContext;
use crate::mesh::{
    model::{Hostname, Service},
    routing::model::{Destination, L4Match, L4Rule, RouteSet, RuleSource},
};

/// Returns the sets that have TLS or TCP rules and of which some host stands for `host`, in Istio's order.
pub fn l4_sets<'a>(routes: &'a OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>, host: &Hostname) -> Vec<&'a Arc<RouteSet>> {
    let mut found = Vec::new();
    if host.is_wildcard() {
        found.extend(routes.iter().filter(|(key, _)| key.overlaps(host)).flat_map(|(_, listed)| listed.iter()));
    } else {
        found.extend(host.covering(routes).flat_map(|(_, listed)| listed.iter()));
    }
    found.retain(|set| !set.tls.is_empty() || !set.tcp.is_empty());
    found.sort_by(|one, other| one.order().cmp(&other.order()));
    found.dedup_by(|one, other| Arc::ptr_eq(one, other));
    found
}

/// Returns the service port that connections to a destination go to: as written, else the service's only port, else
/// the listener's.
pub fn l4_port(destination: &Destination, services: &OrdMap<Hostname, Arc<Service>>, listener: u16) -> u16 {
    let only = || match services.get(&destination.host)?.ports.as_slice() {
        [port] => Some(port.number),
        _ => None,
    };
    destination.port.or_else(only).unwrap_or(listener)
}

/// A rule that applies at a listener.
#[derive(Clone, Copy, Debug)]
pub struct AppliedRule<'a> {
    /// The set that has it.
    pub set: &'a RouteSet,
    /// The rule.
    pub rule: &'a L4Rule,
    /// The match that holds, the first of several, and its number; `None` for a rule without matches.
    pub matched: Option<(usize, &'a L4Match)>,
}

impl RouteSet {
    /// Returns the TLS rules that apply, each once for each match that holds.
    pub fn tls_at<'a>(&'a self, context: &'a RouteContext<'a>) -> impl Iterator<Item = (AppliedRule<'a>, &'a L4Match)> {
        self.tls.iter().flat_map(move |rule| {
            let holding = rule.matches.iter().enumerate().filter(|(_, matched)| holds(matched, context));
            holding.map(move |(at, matched)| (AppliedRule { set: self, rule, matched: Some((at, matched)) }, matched))
        })
    }

    /// Returns the TCP rules that apply, each with the networks of addresses that it is for; `None`: for every
    /// connection.
    pub fn tcp_at<'a>(&'a self, context: &'a RouteContext<'a>) -> impl Iterator<Item = (AppliedRule<'a>, Option<Vec<SmolStr>>)> {
        self.tcp.iter().filter_map(move |rule| {
            let holding = || rule.matches.iter().enumerate().filter(|(_, matched)| holds(matched, context));
            // A Unix domain socket (port 0) is connected to without an address.
            let takes_all = |(_, matched): &(usize, &L4Match)| matched.destination_subnets.is_empty() || context.port == 0;
            let all = holding().find(takes_all);
            let applied = AppliedRule { set: self, rule, matched: all.or_else(|| holding().next()) };
            if rule.matches.is_empty() || all.is_some() {
                return Some((applied, None));
            }
            let networks: Vec<SmolStr> = holding().flat_map(|(_, matched)| &matched.destination_subnets).cloned().collect();
            (!networks.is_empty()).then_some((applied, Some(networks)))
        })
    }
}

impl AppliedRule<'_> {
    /// Returns where it is written: the match, or the rule if that has none.
    pub fn source(&self) -> RuleSource {
        let RuleSource { origin, field } = &self.rule.source;
        let field = self.matched.map_or_else(|| field.clone(), |(at, _)| format_smolstr!("{field}.match[{at}]"));
        RuleSource { origin: Arc::clone(origin), field }
    }

    /// Returns whether one that goes before it takes from it what it was meant to have. What is narrower on purpose makes an
    /// exception from it: a set for fewer namespaces, a match that asks for more.
    pub fn loses_to(&self, first: &Self) -> bool {
        if self.set.origin.object != first.set.origin.object {
            return self.set.order().0 == first.set.order().0;
        }
        !self.asks_no_more_than(first) || first.asks_no_more_than(self)
    }

    /// Returns whether one of the same object has all that it is for, in every proxy: that is told of the object by itself.
    pub fn repeats(&self, first: &Self) -> bool {
        self.set.origin.object == first.set.origin.object && first.asks_no_more_than(self)
    }

    fn asks_no_more_than(&self, other: &Self) -> bool {
        match (self.matched, other.matched) {
            (None, _) => true,
            (Some((_, matched)), None) => matched.asks_no_more_than(&L4Match::default()),
            (Some((_, matched)), Some((_, other))) => matched.asks_no_more_than(other),
        }
    }
}

fn holds(matched: &L4Match, context: &RouteContext<'_>) -> bool {
    let from_client = context.client.is_none_or(|client| {
        client.has(&matched.source_labels) && matched.source_namespace.as_ref().is_none_or(|wanted| wanted == client.namespace)
    });
    from_client
        && matched.port.is_none_or(|wanted| wanted == context.port)
        && (matched.gateways.is_empty() || matched.gateways.contains(context.gateway))
}

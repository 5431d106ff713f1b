//! The TLS and TCP rules that apply at a listener, as far as that can be decided before a connection exists.

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::SmolStr;

use super::RouteContext;
use crate::mesh::{
    model::{Hostname, Service},
    routing::model::{Destination, L4Match, L4Rule, RouteSet},
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

impl RouteSet {
    /// Returns the TLS rules that apply, each once for each match that holds.
    pub fn tls_at<'a>(&'a self, context: &'a RouteContext<'a>) -> impl Iterator<Item = (&'a L4Rule, &'a L4Match)> {
        self.tls
            .iter()
            .flat_map(move |rule| rule.matches.iter().filter(|matched| holds(matched, context)).map(move |matched| (rule, matched)))
    }

    /// Returns the TCP rules that apply, each with the networks of addresses that it is for; `None`: for every
    /// connection.
    pub fn tcp_at<'a>(&'a self, context: &'a RouteContext<'a>) -> impl Iterator<Item = (&'a L4Rule, Option<Vec<SmolStr>>)> {
        self.tcp.iter().filter_map(move |rule| {
            let holding: Vec<&L4Match> = rule.matches.iter().filter(|matched| holds(matched, context)).collect();
            // A Unix domain socket (port 0) is connected to without an address.
            let takes_all = |matched: &&L4Match| matched.destination_subnets.is_empty() || context.port == 0;
            if rule.matches.is_empty() || holding.iter().any(takes_all) {
                return Some((rule, None));
            }
            let networks: Vec<SmolStr> = holding.iter().flat_map(|matched| &matched.destination_subnets).cloned().collect();
            (!networks.is_empty()).then_some((rule, Some(networks)))
        })
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

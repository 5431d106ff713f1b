//! The chains that a service port asks for.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use smol_str::SmolStr;

use super::{
    Chain, Target, dns_cache,
    merge::{Claim, Entries, Offer},
    plan::{Bind, Planner, ServicePort},
    routed::{OfRoutes, RoutedChains},
    table_names,
};
use crate::{
    mesh::{
        model::{Hostname, Protocol, UNSPECIFIED},
        routing::{
            model::{GatewayRef, RouteSet},
            selection::{AppliedRule, Client, RouteContext, l4_sets},
        },
    },
    translate::{
        listener::{
            chain::ChainMatch,
            l4::Destinations,
            refused::{Reason, Refused},
        },
        naming::other_forms,
    },
    visits::{Visit, Visited},
};

impl Planner<'_> {
    /// Returns the chain for HTTP; `matched`: it takes only what is sniffed to be that.
    pub(super) fn http_chain(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool, matched: bool) -> Claim {
        let own = port.protocol == Protocol::Auto && !wildcard;
        let routes = match (port.number, own) {
            (0, _) => bind.addresses.first().cloned().unwrap_or_default(),
            (number, true) => table_names::of_service(port.service, number),
            (number, false) => table_names::of_port(number),
        };
        port.claim(Chain {
            matcher: ChainMatch { plaintext_http: matched, ..Default::default() },
            target: Target::Http { routes, sniffed: own, grpc_web: port.protocol == Protocol::GrpcWeb, dns_cache: dns_cache(port.service) },
            config: None,
        })
    }

    /// Adds the chains for everything else to an offer, and what routes ask for in vain to what the listeners refuse.
    pub(super) fn add_tcp_chains(
        &self,
        port: &ServicePort<'_>,
        bind: &Bind,
        wildcard: bool,
        routed: &mut RoutedChains,
        entries: &mut Entries,
        offer: &mut Offer,
    ) {
        let destinations = Destinations {
            services: &self.view.scope.services,
            destination_rules: &self.view.scope.destination_rules,
            idle_timeout: self.class.idle_timeout,
            stat_name: &self.view.mesh.outbound_cluster_stat_name,
            port: port.number,
            protocol: port.protocol,
        };
        let sets = l4_sets(&port.egress.routes, &port.service.hostname);
        let is_tls = port.protocol.is_tls();
        let of_routes = routed.get(&sets, &bind.networks, port.protocol, || match is_tls {
            true => self.tls_chains(port, bind, &sets, &destinations, entries),
            false => self.plain_chains(port, bind, &sets, &destinations, entries),
        });
        offer.routed = Arc::clone(&of_routes.chains);
        if !of_routes.take_all {
            let names = if is_tls { self.service_names(port, bind, wildcard) } else { Vec::new() };
            let own = entries.matchable(vec![self.service_chain(port, bind, &destinations, names)]);
            offer.own = own.into_iter().next();
        }
    }

    fn context(&self, port: u16) -> RouteContext<'_> {
        let client = Client { namespace: &self.view.scope.namespace, labels: &self.view.class.labels };
        RouteContext { port, gateway: &GatewayRef::Mesh, client: Some(client) }
    }

    fn tls_chains(
        &self,
        port: &ServicePort<'_>,
        bind: &Bind,
        sets: &[&Arc<RouteSet>],
        destinations: &Destinations<'_>,
        entries: &mut Entries,
    ) -> OfRoutes {
        let mut chains = Vec::new();
        let mut taken: HashMap<(&[Hostname], &[SmolStr]), Taken<'_>> = HashMap::new();
        let context = self.context(port.number);
        for routes in sets {
            for (applied, matched) in routes.tls_at(&context).visiting(Visited::Written) {
                match taken.entry((&matched.sni_hosts, &matched.destination_subnets)) {
                    Entry::Vacant(entry) => _ = entry.insert(Taken::by(applied)),
                    Entry::Occupied(mut entry) => {
                        entry.get_mut().turn_away(applied, port.number, entries);
                        continue;
                    }
                }
                let Some(target) = destinations.route(routes, &applied.rule.destinations) else { continue };
                let own_subnets = !matched.destination_subnets.is_empty() && port.number != 0;
                let matcher = ChainMatch {
                    server_names: matched.sni_hosts.iter().map(|host| host.text().clone()).collect(),
                    prefix_ranges: if own_subnets { matched.destination_subnets.clone() } else { bind.networks.clone() },
                    ..Default::default()
                };
                let chain = Chain { matcher, target: Target::Tcp(target), config: Some(routes.origin.clone()) };
                chains.push(Claim::of_rule(chain, &applied.source()));
            }
        }
        let take_all = !chains.is_empty();
        OfRoutes { chains: entries.matchable(chains).into(), take_all }
    }

    // A listener of the service's own address needs no SNI to know the service.
    fn service_names(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool) -> Vec<SmolStr> {
        let service = port.service;
        let addresses = service.addresses_at(port.number);
        let without_address = addresses.is_empty() || addresses.iter().any(|address| address == UNSPECIFIED);
        let shared = !bind.networks.is_empty() || (without_address && wildcard) || dns_cache(service).is_some();
        if !shared {
            return Vec::new();
        }
        let of_alias = |alias: &Hostname| {
            let mut names = other_forms(alias, &self.view.class.dns_domain);
            names.push(alias.text().clone());
            names
        };
        let mut names: Vec<_> = service.aliases.iter().flat_map(of_alias).chain([service.hostname.text().clone()]).collect();
        names.sort_unstable();
        names
    }

    fn plain_chains(
        &self,
        port: &ServicePort<'_>,
        bind: &Bind,
        sets: &[&Arc<RouteSet>],
        destinations: &Destinations<'_>,
        entries: &mut Entries,
    ) -> OfRoutes {
        let mut chains = Vec::new();
        let context = self.context(port.number);
        let mut all: Option<Taken<'_>> = None;
        for (applied, networks) in sets.iter().flat_map(|routes| routes.tcp_at(&context)).visiting(Visited::Written) {
            if let Some(all) = &mut all {
                all.turn_away(applied, port.number, entries);
                continue;
            }
            let Some(target) = destinations.route(applied.set, &applied.rule.destinations) else { continue };
            let config = networks.is_none().then(|| applied.set.origin.clone());
            all = networks.is_none().then(|| Taken::by(applied));
            let matcher = ChainMatch { prefix_ranges: networks.unwrap_or_else(|| bind.networks.clone()), ..Default::default() };
            chains.push(Claim::of_rule(Chain { matcher, target: Target::Tcp(target), config }, &applied.rule.source));
        }
        let own = ChainMatch { prefix_ranges: bind.networks.clone(), ..Default::default() };
        let take_all = all.is_some() || chains.iter().any(|claim: &Claim| claim.chain.matcher.conflicts_with(&own));
        OfRoutes { chains: chains.into(), take_all }
    }

    fn service_chain(&self, port: &ServicePort<'_>, bind: &Bind, destinations: &Destinations<'_>, server_names: Vec<SmolStr>) -> Claim {
        let service = port.service;
        // A Sidecar's port that the service lacks means the service's only one.
        let number = match service.ports.as_slice() {
            [only] => only.number,
            _ => port.number,
        };
        let mut target = destinations.single(&service.hostname, "", number);
        target.sni_forward = dns_cache(service).map(|cache| (cache, port.number));
        let matcher = ChainMatch { server_names, prefix_ranges: bind.networks.clone(), ..Default::default() };
        port.claim(Chain { matcher, target: Target::Tcp(target), config: None })
    }
}

/// Connections that a rule takes, so that no rule behind it does.
struct Taken<'a> {
    first: AppliedRule<'a>,
    /// Of the rules behind it, the one that asks for least.
    widest: AppliedRule<'a>,
}

impl<'a> Taken<'a> {
    fn by(first: AppliedRule<'a>) -> Self {
        Self { first, widest: first }
    }

    /// Tells a rule that it goes without them, unless that is meant or told of its object, whatever proxies there are.
    fn turn_away(&mut self, later: AppliedRule<'a>, port: u16, entries: &mut Entries) {
        if later.loses_to(&self.first) && !later.repeats(&self.first) && !later.repeats(&self.widest) {
            let source = later.source();
            entries.refuse(Refused::new(&source.origin, source.field, Reason::Outranked(port, self.first.set.origin.object.clone())));
        }
        if self.widest.repeats(&later) {
            self.widest = later;
        }
    }
}

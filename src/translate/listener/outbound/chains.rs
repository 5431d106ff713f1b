//! The chains that a service port asks for.

use smol_str::SmolStr;

use super::{
    Chain, Target, dns_cache,
    merge::Claim,
    plan::{Bind, Planner, ServicePort},
    table_names,
};
use crate::{
    mesh::{
        model::{Protocol, UNSPECIFIED},
        routing::{
            model::GatewayRef,
            selection::{Client, RouteContext, l4_sets},
        },
    },
    translate::listener::{chain::ChainMatch, l4::Destinations},
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

    /// Returns the chains for everything else.
    pub(super) fn tcp_chains(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool) -> Vec<Claim> {
        let destinations = Destinations {
            services: &self.view.scope.services,
            destination_rules: &self.view.scope.destination_rules,
            idle_timeout: self.class.idle_timeout,
            stat_name: &self.view.mesh.outbound_cluster_stat_name,
            port: port.number,
        };
        if port.protocol.is_tls() {
            self.tls_chains(port, bind, wildcard, &destinations)
        } else {
            self.plain_chains(port, bind, &destinations)
        }
    }

    fn context(&self, port: u16) -> RouteContext<'_> {
        let client = Client { namespace: &self.view.scope.namespace, labels: &self.view.class.labels };
        RouteContext { port, gateway: &GatewayRef::Mesh, client: Some(client) }
    }

    fn tls_chains(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool, destinations: &Destinations<'_>) -> Vec<Claim> {
        let mut chains = Vec::new();
        let mut handled = Vec::new();
        let context = self.context(port.number);
        for routes in l4_sets(&port.egress.routes, &port.service.hostname) {
            for (rule, matched) in routes.tls_at(&context) {
                let seen = (&matched.sni_hosts, &matched.destination_subnets);
                if handled.contains(&seen) {
                    continue;
                }
                handled.push(seen);
                let Some(target) = destinations.route(routes, &rule.destinations) else { continue };
                let own_subnets = !matched.destination_subnets.is_empty() && port.number != 0;
                let matcher = ChainMatch {
                    server_names: matched.sni_hosts.iter().map(|host| host.text().clone()).collect(),
                    prefix_ranges: if own_subnets { matched.destination_subnets.clone() } else { bind.networks.clone() },
                    ..Default::default()
                };
                let chain = Chain { matcher, target: Target::Tcp(target), config: Some(routes.origin.clone()) };
                chains.push(Claim::of_rule(chain, &rule.source));
            }
        }
        if chains.is_empty() {
            chains.push(self.service_chain(port, bind, destinations, self.service_names(port, bind, wildcard)));
        }
        chains
    }

    // A listener of the service's own address needs no SNI to know the service.
    fn service_names(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool) -> Vec<SmolStr> {
        let service = port.service;
        let addresses = service.addresses_at(port.number);
        let without_address = addresses.is_empty() || addresses.iter().any(|address| address == UNSPECIFIED);
        let shared = !bind.networks.is_empty() || (without_address && wildcard) || dns_cache(service).is_some();
        let names = || [&service.hostname].into_iter().chain(&service.aliases).map(|host| host.text().clone()).collect();
        if shared { names() } else { Vec::new() }
    }

    fn plain_chains(&self, port: &ServicePort<'_>, bind: &Bind, destinations: &Destinations<'_>) -> Vec<Claim> {
        let mut chains = Vec::new();
        let context = self.context(port.number);
        for routes in l4_sets(&port.egress.routes, &port.service.hostname) {
            for (rule, networks) in routes.tcp_at(&context) {
                let Some(target) = destinations.route(routes, &rule.destinations) else { continue };
                let catches_all = networks.is_none();
                let config = catches_all.then(|| routes.origin.clone());
                let matcher = ChainMatch { prefix_ranges: networks.unwrap_or_else(|| bind.networks.clone()), ..Default::default() };
                chains.push(Claim::of_rule(Chain { matcher, target: Target::Tcp(target), config }, &rule.source));
                if catches_all {
                    return chains;
                }
            }
        }
        let own = self.service_chain(port, bind, destinations, Vec::new());
        if !chains.iter().any(|claim| claim.chain.matcher.conflicts_with(&own.chain.matcher)) {
            chains.push(own);
        }
        chains
    }

    fn service_chain(&self, port: &ServicePort<'_>, bind: &Bind, destinations: &Destinations<'_>, server_names: Vec<SmolStr>) -> Claim {
        let service = port.service;
        // A Sidecar's port that the service lacks means the service's only one.
        let number = match service.ports.as_slice() {
            [only] => only.number,
            _ => port.number,
        };
        let mut target = destinations.single(&service.hostname, "", number);
        target.mongo = port.protocol == Protocol::Mongo;
        target.sni_forward = dns_cache(service).map(|cache| (cache, port.number));
        let matcher = ChainMatch { server_names, prefix_ranges: bind.networks.clone(), ..Default::default() };
        port.claim(Chain { matcher, target: Target::Tcp(target), config: None })
    }
}

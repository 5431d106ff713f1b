//! Decides which outbound listeners there are.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use smol_str::{SmolStr, format_smolstr};

use super::{
    Chain, ListenerInput, Plan, Target, dns_cache,
    merge::{Entries, Offer},
};
use crate::{
    mesh::{
        model::{EndpointAddress, EndpointSet, Interception, Labels, Protocol, Registry, Resolution, Service, ServiceKey},
        routing::{
            model::GatewayRef,
            selection::{Client, RouteContext, l4_sets},
        },
        scope::{EgressScope, Scope},
        settings::MeshSettings,
    },
    translate::{
        input::{ByPtr, ListenerClass, ProxyClass},
        listener::{chain::ChainMatch, l4::Destinations},
    },
    visits::{Visit, Visited},
};

/// The services to look at for a port, the oldest first, by the index of their egress listener.
pub(super) type Candidates<'a> = Vec<(usize, Vec<&'a Arc<Service>>)>;

pub(super) struct Planner<'a> {
    scope: &'a Scope,
    class: ListenerClass,
    mesh: &'a Arc<MeshSettings>,
    endpoints: &'a OrdMap<ServiceKey, Arc<EndpointSet>>,
    own: &'a [IpAddr],
    labels: Arc<Labels>,
}

/// The addresses of one listener.
pub(super) struct Bind {
    /// The first names it.
    pub(super) addresses: Vec<SmolStr>,
    /// Networks that its chains match instead, as they cannot be bound to.
    pub(super) networks: Vec<SmolStr>,
}

/// One port of one service, as seen through one egress listener.
struct ServicePort<'a> {
    egress: &'a EgressScope,
    service: &'a Service,
    number: u16,
    protocol: Protocol,
}

pub(super) fn candidates(scope: &Scope, port: u16) -> Candidates<'_> {
    let of = |egress: &'_ EgressScope| matches!(port_of(egress), None | Some(0));
    let scopes = scope.egress.iter().enumerate().filter(|(_, egress)| port_of(egress).is_none_or(|wanted| wanted == port));
    let found = scopes.map(|(index, egress)| {
        let services = egress.services.values().visiting(Visited::Service);
        let services = services.filter(|service| service.port(port).is_some() || (port == 0 && of(egress) && port_of(egress).is_some()));
        (index, by_age(services.collect()))
    });
    found.collect()
}

pub(super) fn all_candidates(scope: &Scope) -> HashMap<u16, Candidates<'_>> {
    let mut all = HashMap::<u16, Candidates<'_>>::new();
    for (index, egress) in scope.egress.iter().enumerate() {
        let services = by_age(egress.services.values().visiting(Visited::Service).collect());
        if let Some(port) = port_of(egress) {
            let services = services.into_iter().filter(|service| port == 0 || service.port(port).is_some());
            all.entry(port).or_default().push((index, services.collect()));
            continue;
        }
        for service in services {
            for port in service.ports.iter().visiting(Visited::Port) {
                let candidates = all.entry(port.number).or_default();
                match candidates.last_mut() {
                    Some((last, services)) if *last == index => services.push(service),
                    _ => candidates.push((index, vec![service])),
                }
            }
        }
    }
    all
}

fn port_of(egress: &EgressScope) -> Option<u16> {
    egress.listener.as_ref()?.port
}

fn by_age(mut services: Vec<&Arc<Service>>) -> Vec<&Arc<Service>> {
    services.sort_by(|one, other| (&one.precedence, &one.hostname).cmp(&(&other.precedence, &other.hostname)));
    services
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        scope: &'a Scope,
        class: &ProxyClass,
        mesh: &'a Arc<MeshSettings>,
        endpoints: &'a OrdMap<ServiceKey, Arc<EndpointSet>>,
        own: &'a [IpAddr],
    ) -> Self {
        Self { scope, class: ListenerClass::of(class), mesh, endpoints, own, labels: Arc::clone(&class.labels) }
    }

    /// Plans the listeners that do not depend on services.
    pub(super) fn fixed(&self, class: &ProxyClass) -> Vec<ListenerInput> {
        let mut plans = Vec::new();
        if class.interception != Interception::None {
            plans.push(Plan::Virtual);
        }
        if self.mesh.proxy_http_port != 0 {
            plans.push(Plan::HttpProxy(self.mesh.proxy_http_port));
        }
        plans.into_iter().map(|plan| self.input(plan)).collect()
    }

    /// Plans the listeners of a port.
    pub(super) fn port(&self, number: u16, candidates: &Candidates<'a>) -> Vec<ListenerInput> {
        let mut entries = Entries::default();
        for (index, services) in candidates {
            let Some(egress) = self.scope.egress.get(*index) else { continue };
            let wanted = egress.listener.as_ref().filter(|listener| listener.port.is_some());
            if wanted.is_none() {
                entries.lock();
            }
            for service in services.iter().filter(|service| service.external_name.is_none()) {
                let Some(protocol) = wanted.and_then(|listener| listener.protocol).or_else(|| Some(service.port(number)?.protocol)) else {
                    continue;
                };
                self.offer(&ServicePort { egress, service, number, protocol }, &mut entries);
            }
        }
        entries.into_listeners(number).into_iter().map(|listener| self.input(Plan::Service(listener))).collect()
    }

    fn input(&self, plan: Plan) -> ListenerInput {
        ListenerInput { class: self.class.clone(), mesh: ByPtr::from(self.mesh), allow_any: self.scope.allow_any, plan }
    }

    fn offer(&self, port: &ServicePort<'_>, entries: &mut Entries) {
        if port.protocol == Protocol::Udp {
            return;
        }
        let bound = self.bound(port.egress);
        for bind in self.binds(port, bound) {
            let wildcard = bind.addresses.first().is_some_and(|address| address == self.class.wildcard());
            let origin = port.service.origin.clone();
            let mut offer = Offer { protocol: port.protocol, sniffed: false, tcp: Vec::new(), http: None, bound, origin };
            if port.protocol == Protocol::Auto {
                offer.sniffed = true;
                offer.tcp = self.tcp_chains(port, &bind, wildcard);
                offer.http = Some(self.http_chain(port, &bind, wildcard, true));
            } else if port.protocol.is_http() {
                offer.sniffed = wildcard;
                offer.http = Some(self.http_chain(port, &bind, wildcard, wildcard));
            } else {
                offer.tcp = self.tcp_chains(port, &bind, wildcard);
            }
            entries.add(bind.addresses, offer);
        }
    }

    fn bound(&self, egress: &EgressScope) -> bool {
        let asked = egress.listener.as_ref().is_some_and(|listener| listener.no_capture || listener.bind.starts_with("unix://"));
        asked || self.class.interception == Interception::None
    }

    fn binds(&self, port: &ServicePort<'_>, bound: bool) -> Vec<Bind> {
        let written = port.egress.listener.as_ref().map(|listener| &listener.bind).filter(|bind| !bind.is_empty());
        if let Some(bind) = written {
            return vec![Bind::at(bind.clone())];
        }
        if bound {
            return vec![Bind::both(self.class.localhost(), "::1", self.class.dual_stack())];
        }
        if port.protocol.is_http() {
            return vec![self.everywhere()];
        }
        let service = port.service;
        let catch_all = port.egress.listener.as_ref().is_none_or(|listener| listener.port.is_none());
        if service.addresses.is_empty() && service.resolution == Resolution::Passthrough && catch_all {
            return self.endpoint_binds(service, port.number);
        }
        self.service_binds(service)
    }

    // A headless service has no address of its own: each endpoint's address gets a listener. Without endpoints there
    // is none, rather than one that would take the port on all addresses while the service is scaled down.
    fn endpoint_binds(&self, service: &Service, number: u16) -> Vec<Bind> {
        let set = self.endpoints.get(&service.key());
        let endpoints = set.map_or(&[][..], |set| set.port(number));
        if endpoints.is_empty() && service.registry == Registry::External && service.selector.is_empty() {
            return vec![self.everywhere()];
        }
        let addresses = endpoints.iter().filter_map(|endpoint| match &endpoint.address {
            EndpointAddress::Ip(ip) if !self.own.contains(ip) => Some(Bind::at(format_smolstr!("{ip}"))),
            _ => None,
        });
        let mut seen = std::collections::BTreeSet::new();
        addresses.filter(|bind| seen.insert(bind.addresses.clone())).collect()
    }

    fn service_binds(&self, service: &Service) -> Vec<Bind> {
        let usable = |address: &&SmolStr| if address.contains(':') { self.class.ipv6 } else { self.class.ipv4 };
        let addresses = service.addresses.iter().filter(usable).cloned();
        if service.addresses.is_empty() {
            return vec![self.everywhere()];
        }
        match service.registry {
            Registry::Kubernetes => {
                let addresses = addresses.take(if self.class.dual_stack() { 2 } else { 1 }).collect::<Vec<_>>();
                if addresses.is_empty() { Vec::new() } else { vec![Bind { addresses, networks: Vec::new() }] }
            }
            Registry::External => addresses.map(|address| self.external_bind(address)).collect(),
        }
    }

    fn external_bind(&self, address: SmolStr) -> Bind {
        match address.split_once('/') {
            None => Bind::at(address),
            Some((ip, "32" | "128")) => Bind::at(ip.into()),
            Some(_) => Bind { networks: vec![address], ..self.everywhere() },
        }
    }

    fn everywhere(&self) -> Bind {
        Bind::both(self.class.wildcard(), "::", self.class.dual_stack())
    }

    fn http_chain(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool, matched: bool) -> Chain {
        let own = port.protocol == Protocol::Auto && !wildcard;
        let routes = match (port.number, own) {
            (0, _) => bind.addresses.first().cloned().unwrap_or_default(),
            (number, true) => format_smolstr!("{}:{number}", port.service.hostname),
            (number, false) => format_smolstr!("{number}"),
        };
        Chain {
            matcher: ChainMatch { plaintext_http: matched, ..Default::default() },
            target: Target::Http { routes, sniffed: own, grpc_web: port.protocol == Protocol::GrpcWeb, dns_cache: dns_cache(port.service) },
            config: None,
        }
    }

    fn tcp_chains(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool) -> Vec<Chain> {
        let destinations = Destinations {
            services: &self.scope.services,
            destination_rules: &self.scope.destination_rules,
            idle_timeout: self.class.idle_timeout,
            stat_name: &self.mesh.outbound_cluster_stat_name,
            port: port.number,
        };
        if port.protocol.is_tls() {
            self.tls_chains(port, bind, wildcard, &destinations)
        } else {
            self.plain_chains(port, bind, &destinations)
        }
    }

    fn context(&self, port: u16) -> RouteContext<'_> {
        let client = Client { namespace: &self.scope.namespace, labels: &self.labels };
        RouteContext { port, gateway: &GatewayRef::Mesh, client: Some(client) }
    }

    fn tls_chains(&self, port: &ServicePort<'_>, bind: &Bind, wildcard: bool, destinations: &Destinations<'_>) -> Vec<Chain> {
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
                chains.push(Chain {
                    matcher: ChainMatch {
                        server_names: matched.sni_hosts.iter().map(|host| host.text().clone()).collect(),
                        prefix_ranges: if own_subnets { matched.destination_subnets.clone() } else { bind.networks.clone() },
                        ..Default::default()
                    },
                    target: Target::Tcp(target),
                    config: Some(routes.origin.clone()),
                });
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
        let shared = !bind.networks.is_empty() || (service.addresses.is_empty() && wildcard) || dns_cache(service).is_some();
        let names = || [&service.hostname].into_iter().chain(&service.aliases).map(|host| host.text().clone()).collect();
        if shared { names() } else { Vec::new() }
    }

    fn plain_chains(&self, port: &ServicePort<'_>, bind: &Bind, destinations: &Destinations<'_>) -> Vec<Chain> {
        let mut chains = Vec::new();
        let context = self.context(port.number);
        for routes in l4_sets(&port.egress.routes, &port.service.hostname) {
            for (rule, networks) in routes.tcp_at(&context) {
                let Some(target) = destinations.route(routes, &rule.destinations) else { continue };
                let catches_all = networks.is_none();
                let config = catches_all.then(|| routes.origin.clone());
                let matcher = ChainMatch { prefix_ranges: networks.unwrap_or_else(|| bind.networks.clone()), ..Default::default() };
                chains.push(Chain { matcher, target: Target::Tcp(target), config });
                if catches_all {
                    return chains;
                }
            }
        }
        let own = self.service_chain(port, bind, destinations, Vec::new());
        if !chains.iter().any(|chain| chain.matcher.conflicts_with(&own.matcher)) {
            chains.push(own);
        }
        chains
    }

    fn service_chain(&self, port: &ServicePort<'_>, bind: &Bind, destinations: &Destinations<'_>, server_names: Vec<SmolStr>) -> Chain {
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
        Chain { matcher, target: Target::Tcp(target), config: None }
    }
}

impl Bind {
    fn at(address: SmolStr) -> Self {
        Self { addresses: vec![address], networks: Vec::new() }
    }

    fn both(first: &'static str, second: &'static str, dual_stack: bool) -> Self {
        let second = (dual_stack && first != second).then_some(second);
        Self { addresses: [first].into_iter().chain(second).map(SmolStr::from).collect(), networks: Vec::new() }
    }
}

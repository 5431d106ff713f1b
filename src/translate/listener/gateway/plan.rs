//! Merges the servers of all Gateways into listeners, oldest Gateway first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use smol_str::{SmolStr, format_smolstr};

use super::{
    Chain, GatewayListenerInput, GatewayPlan, GatewayRouteTable, GatewayView, Refusal, RefusedServer, RoutedServer, ServerHost, Target,
    server_tls::ServerSecrets,
};
use crate::{
    api::istio::{Server, ServerTlsMode},
    mesh::{
        model::{Hostname, Labels, Origin, Protocol, Service},
        protocol,
        routing::model::{GatewayRef, L4Match, RouteSet},
        scope::{ServiceTarget, routes_for_gateway},
        world::Gateway,
    },
    translate::{
        filter::network::TcpTarget,
        input::{ByPtr, ListenerClass},
        listener::{
            chain::ChainMatch,
            l4::{Destinations, holds},
        },
        naming::dns_srv,
    },
};

pub(super) fn plan(view: GatewayView<'_>) -> GatewayPlan {
    let mut gateways = view.gateways.iter().collect::<Vec<_>>();
    gateways.sort_by(|one, other| one.precedence.cmp(&other.precedence));
    let mut merge = Merge { view, ports: BTreeMap::new(), plan: GatewayPlan::default() };
    for gateway in gateways {
        for (at, server) in gateway.spec.servers.iter().enumerate() {
            merge.add(gateway, at, server);
        }
    }
    merge.finish()
}

struct Merge<'a> {
    view: GatewayView<'a>,
    /// By port and address.
    ports: BTreeMap<(u16, SmolStr), Port<'a>>,
    plan: GatewayPlan,
}

struct Port<'a> {
    kind: Kind,
    servers: Vec<Placed<'a>>,
    /// TLS hosts that are served.
    hosts: BTreeSet<Hostname>,
}

/// What may share a port.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Any number of plaintext HTTP servers.
    Http,
    /// Any number of servers told apart by SNI.
    Tls,
    /// One server.
    Tcp,
}

struct Placed<'a> {
    gateway: &'a Gateway,
    server: &'a Server,
    protocol: Protocol,
    hosts: Vec<ServerHost>,
}

impl<'a> Merge<'a> {
    fn add(&mut self, gateway: &'a Gateway, at: usize, server: &'a Server) {
        let protocol = protocol::named(&server.port.protocol);
        let kind = match protocol {
            protocol if protocol.is_http() => Kind::Http,
            protocol if protocol.is_tls() => Kind::Tls,
            _ => Kind::Tcp,
        };
        let own = gateway.origin.object.namespace.as_str();
        for port in self.listener_ports(server.port.number) {
            let hosts = server.hosts.iter().map(|host| ServerHost::parse(host, own)).collect();
            let placed = Placed { gateway, server, protocol, hosts };
            if let Err(reason) = self.place(port, kind, placed) {
                self.plan.refused.push(RefusedServer { gateway: gateway.origin.clone(), server: at, reason });
            }
        }
    }

    fn place(&mut self, number: u16, kind: Kind, placed: Placed<'a>) -> Result<(), Refusal> {
        if self.view.unprivileged && number < 1024 {
            return Err(Refusal::Privileged(number));
        }
        let key = (number, placed.server.bind.clone());
        let port = self.ports.entry(key).or_insert(Port { kind, servers: Vec::new(), hosts: BTreeSet::new() });
        if port.kind != kind || (kind == Kind::Tcp && !port.servers.is_empty()) {
            return Err(Refusal::PortTaken(number));
        }
        if kind == Kind::Tls {
            // Envoy refuses a listener that has two chains for one SNI.
            if let Some(taken) = placed.hosts.iter().find(|host| port.hosts.contains(&host.host)) {
                return Err(Refusal::HostTaken(taken.host.clone()));
            }
            port.hosts.extend(placed.hosts.iter().map(|host| host.host.clone()));
        }
        port.servers.push(placed);
        Ok(())
    }

    // Clients speak of the Service's port; the pod listens on its target port.
    fn listener_ports(&self, server: u16) -> BTreeSet<u16> {
        let number = |target: &ServiceTarget| target.service.ports.get(target.port).map(|port| port.number);
        let targets = self.view.targets.iter().filter(|target| number(target) == Some(server));
        let ports = targets.map(|target| target.target_port).collect::<BTreeSet<_>>();
        if ports.is_empty() { BTreeSet::from([server]) } else { ports }
    }

    fn finish(mut self) -> GatewayPlan {
        let class = ListenerClass::of(self.view.class);
        for ((number, bind), port) in std::mem::take(&mut self.ports) {
            let mut chains = Vec::new();
            if port.kind == Kind::Http {
                chains.extend(self.http(number, &bind, &port));
            } else {
                let mut names = BTreeSet::new();
                port.servers.iter().for_each(|placed| chains.extend(self.server(placed, &mut names)));
            }
            if chains.is_empty() {
                continue;
            }
            let mut origins = port.servers.iter().map(|placed| placed.gateway.origin.clone()).collect::<Vec<_>>();
            origins.sort_unstable();
            origins.dedup();
            let bind = if bind.is_empty() { class.wildcard().into() } else { bind };
            let mesh = ByPtr::from(self.view.mesh);
            self.plan.listeners.push(GatewayListenerInput { class: class.clone(), mesh, bind, port: number, chains, origins });
        }
        self.plan.tables.sort_by(|one, other| one.name.cmp(&other.name));
        self.plan.listeners.sort_by_key(GatewayListenerInput::name);
        self.plan
    }

    fn http(&mut self, number: u16, bind: &str, port: &Port<'_>) -> Option<Chain> {
        let name = with_bind(format_smolstr!("http.{number}"), bind);
        let grpc_web = port.servers.first()?.protocol == Protocol::GrpcWeb;
        let servers = port.servers.iter().map(Placed::routed).collect();
        self.plan.tables.push(GatewayRouteTable { name: name.clone(), servers });
        Some(Chain { matcher: ChainMatch::default(), target: Target::Http { routes: name, grpc_web }, tls: None })
    }

    fn server(&mut self, placed: &Placed<'a>, names: &mut BTreeSet<SmolStr>) -> Vec<Chain> {
        let mode = placed.server.tls.as_ref().map(|tls| tls.mode);
        match (placed.protocol, mode) {
            (protocol, Some(ServerTlsMode::AutoPassthrough)) if protocol.is_tls() => self.auto_passthrough(placed),
            (protocol, None | Some(ServerTlsMode::Passthrough)) if protocol.is_tls() => self.passthrough(placed, names),
            (Protocol::Https, Some(_)) => self.https(placed).into_iter().collect(),
            _ => self.tcp(placed).into_iter().collect(),
        }
    }

    fn https(&mut self, placed: &Placed<'a>) -> Option<Chain> {
        let (gateway, port) = (&placed.gateway.origin.object, &placed.server.port);
        let name = format_smolstr!("https.{}.{}.{}.{}", port.number, port.name, gateway.name, gateway.namespace);
        let name = with_bind(name, &placed.server.bind);
        let tls = ServerSecrets::of(placed.server.tls.as_ref()?, false);
        self.plan.tables.push(GatewayRouteTable { name: name.clone(), servers: vec![placed.routed()] });
        Some(Chain { matcher: placed.server_names(), target: Target::Http { routes: name, grpc_web: false }, tls })
    }

    fn tcp(&self, placed: &Placed<'_>) -> Option<Chain> {
        let tls = placed.server.tls.as_ref().and_then(|tls| ServerSecrets::of(tls, true));
        let matcher = if tls.is_some() { placed.server_names() } else { ChainMatch::default() };
        let gateway = placed.gateway_ref();
        let routes = self.routes(placed);
        let found = routes.iter().flat_map(|set| set.tcp.iter().map(move |route| (set, route))).find(|(_, route)| {
            route.matches.is_empty() || route.matches.iter().any(|matcher| self.holds(matcher, &gateway, placed.server.port.number))
        });
        let (set, route) = found?;
        let target = self.destinations(placed).route(set, &route.destinations)?;
        Some(Chain { matcher, target: Target::Tcp(target), tls })
    }

    fn passthrough(&self, placed: &Placed<'_>, names: &mut BTreeSet<SmolStr>) -> Vec<Chain> {
        let gateway = placed.gateway_ref();
        let mut chains = Vec::new();
        for set in &self.routes(placed) {
            for route in &set.tls {
                let matches = route.matches.iter().filter(|matcher| self.holds(matcher, &gateway, placed.server.port.number));
                for matcher in matches {
                    let wanted = matcher.sni_hosts.iter().map(|host| host.text().clone()).collect::<Vec<_>>();
                    if wanted.iter().any(|name| names.contains(name)) {
                        continue;
                    }
                    let Some(target) = self.destinations(placed).route(set, &route.destinations) else { continue };
                    names.extend(wanted.iter().cloned());
                    let matcher =
                        ChainMatch { server_names: wanted, prefix_ranges: matcher.destination_subnets.clone(), ..Default::default() };
                    chains.push(Chain { matcher, target: Target::Tcp(target), tls: None });
                }
            }
        }
        chains
    }

    // A chain for each service port and subset: the SNI of in-mesh mTLS names them.
    fn auto_passthrough(&self, placed: &Placed<'_>) -> Vec<Chain> {
        let scope = self.view.scope;
        let wanted = |service: &Service| {
            let mesh = !service.mesh_external && service.external_name.is_none();
            mesh && placed.hosts.iter().any(|host| host.admits(&service.namespace, &service.hostname))
        };
        let mut services = scope.services.values().filter(|service| wanted(service)).collect::<Vec<_>>();
        services.sort_by(|one, other| one.precedence.cmp(&other.precedence));
        let mut chains = Vec::new();
        for service in services {
            let rule = scope.destination_rules.get(&service.hostname);
            let subsets = rule.into_iter().flat_map(|rule| rule.subsets.iter().map(|subset| subset.name.as_str()));
            let subsets = [""].into_iter().chain(subsets).collect::<Vec<_>>();
            for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
                chains.extend(subsets.iter().map(|subset| {
                    let cluster = dns_srv(port.number, subset, &service.hostname);
                    let matcher = ChainMatch { server_names: vec![cluster.clone()], mesh_tls: true, ..Default::default() };
                    Chain { matcher, target: Target::Tcp(TcpTarget::cluster(cluster)), tls: None }
                }));
            }
        }
        chains
    }

    // Route sets that are bound to the server's Gateway and have a host in common with it, in Istio's order.
    fn routes(&self, placed: &Placed<'_>) -> Vec<Arc<RouteSet>> {
        let mut found = routes_for_gateway(self.view.world, &self.view.scope.namespace, &placed.gateway_ref());
        found.retain(|set| placed.shares_host(set));
        found
    }

    fn destinations(&self, placed: &Placed<'_>) -> Destinations<'a> {
        Destinations {
            services: &self.view.scope.services,
            destination_rules: &self.view.scope.destination_rules,
            idle_timeout: self.view.class.idle_timeout,
            stat_name: &self.view.mesh.outbound_cluster_stat_name,
            port: placed.server.port.number,
        }
    }

    fn holds(&self, matcher: &L4Match, gateway: &GatewayRef, port: u16) -> bool {
        let matcher = L4Match { source_labels: Labels::default(), source_namespace: None, ..matcher.clone() };
        holds(&matcher, gateway, &Labels::default(), "", port)
    }
}

impl Placed<'_> {
    fn gateway_ref(&self) -> GatewayRef {
        let Origin { object, .. } = &self.gateway.origin;
        GatewayRef::Gateway { namespace: object.namespace.clone(), name: object.name.clone() }
    }

    fn routed(&self) -> RoutedServer {
        let object = &self.gateway.origin.object;
        RoutedServer {
            gateway: (object.namespace.clone(), object.name.clone()),
            port: self.server.port.number,
            hosts: self.hosts.clone(),
            https_redirect: self.server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
        }
    }

    fn server_names(&self) -> ChainMatch {
        ChainMatch { server_names: self.hosts.iter().map(|host| host.host.text().clone()).collect(), ..Default::default() }
    }

    fn shares_host(&self, set: &RouteSet) -> bool {
        self.hosts.iter().any(|host| set.hosts.iter().any(|wanted| host.admits(&set.namespace, wanted)))
    }
}

fn with_bind(name: SmolStr, bind: &str) -> SmolStr {
    if bind.is_empty() { name } else { format_smolstr!("{name}.{bind}") }
}

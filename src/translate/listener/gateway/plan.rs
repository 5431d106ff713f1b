//! Plans a gateway's listeners and route configurations from the listeners that its Gateways have on each port.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use super::{Chain, GatewayListenerInput, GatewayPlan, GatewayRouteTable, GatewayView, RoutedServer, Target, server_tls::ServerTls};
use crate::{
    mesh::{
        gateway::{self, Handling, MergedPort, PlacedListener, Sharing, TlsTermination},
        model::{Protocol, Service},
        routing::{
            model::{GatewayRef, RouteSet},
            selection::RouteContext,
        },
        scope::routes_for_gateway,
    },
    translate::{
        filter::network::TcpTarget,
        input::{ByPtr, ListenerClass},
        listener::{chain::ChainMatch, l4::Destinations},
        naming::dns_srv,
    },
};

pub(super) fn plan(view: GatewayView<'_>) -> GatewayPlan {
    let targets = view.targets.iter().filter_map(|target| Some((target.service.ports.get(target.port)?.number, target.target_port)));
    let merged = gateway::merge(view.gateways, &targets.collect::<Vec<_>>(), view.unprivileged);
    let mut planner = Planner { view, class: ListenerClass::of(view.class), tables: Vec::new() };
    let mut listeners: Vec<_> = merged.ports.iter().filter_map(|port| planner.listener(port)).collect();
    listeners.sort_by_key(GatewayListenerInput::name);
    planner.tables.sort_by(|one, other| one.name.cmp(&other.name));
    GatewayPlan { listeners, tables: planner.tables, refused: merged.refused }
}

struct Planner<'a> {
    view: GatewayView<'a>,
    class: ListenerClass,
    tables: Vec<GatewayRouteTable>,
}

impl<'a> Planner<'a> {
    /// Returns the listener of a port; `None` when nothing is behind it.
    fn listener(&mut self, port: &MergedPort<'_>) -> Option<GatewayListenerInput> {
        let chains = match port.sharing {
            Sharing::Http => vec![self.http(port)],
            Sharing::Tls | Sharing::Alone => {
                let mut names = BTreeSet::new();
                port.listeners.iter().flat_map(|placed| self.chains(placed, &mut names)).collect()
            }
        };
        if chains.is_empty() {
            return None;
        }
        let mut origins = port.listeners.iter().map(|placed| placed.gateway.origin.clone()).collect::<Vec<_>>();
        origins.sort_unstable();
        origins.dedup();
        let bind = if port.bind.is_empty() { self.class.wildcard().into() } else { port.bind.clone() };
        let mesh = ByPtr::from(self.view.mesh);
        Some(GatewayListenerInput { class: self.class.clone(), mesh, bind, port: port.number, chains, origins })
    }

    fn http(&mut self, port: &MergedPort<'_>) -> Chain {
        let name = with_bind(format_smolstr!("http.{}", port.number), &port.bind);
        let grpc_web = port.listeners.first().is_some_and(|placed| placed.listener.protocol == Protocol::GrpcWeb);
        let servers = port.listeners.iter().map(routed).collect();
        self.tables.push(GatewayRouteTable { name: name.clone(), servers });
        Chain { matcher: ChainMatch::default(), target: Target::Http { routes: name, grpc_web }, tls: None }
    }

    fn chains(&mut self, placed: &PlacedListener<'_>, names: &mut BTreeSet<SmolStr>) -> Vec<Chain> {
        match placed.listener.handling() {
            Handling::Https(termination) => vec![self.https(placed, termination)],
            Handling::AutoPassthrough => self.auto_passthrough(placed),
            Handling::Passthrough => self.passthrough(placed, names),
            Handling::Tcp(termination) => self.tcp(placed, termination).into_iter().collect(),
            // HTTP listeners share one chain.
            Handling::Http => Vec::new(),
        }
    }

    fn https(&mut self, placed: &PlacedListener<'_>, termination: &Arc<TlsTermination>) -> Chain {
        let (gateway, listener) = (&placed.gateway.origin.object, placed.listener);
        let name = format_smolstr!("https.{}.{}.{}.{}", listener.port, listener.port_name, gateway.name, gateway.namespace);
        let name = with_bind(name, &listener.bind);
        let tls = Some(ServerTls { termination: Arc::clone(termination), tcp: false });
        self.tables.push(GatewayRouteTable { name: name.clone(), servers: vec![routed(placed)] });
        Chain { matcher: server_names(placed), target: Target::Http { routes: name, grpc_web: false }, tls }
    }

    fn tcp(&self, placed: &PlacedListener<'_>, termination: Option<&Arc<TlsTermination>>) -> Option<Chain> {
        let tls = termination.map(|termination| ServerTls { termination: Arc::clone(termination), tcp: true });
        let matcher = if tls.is_some() { server_names(placed) } else { ChainMatch::default() };
        let gateway = gateway_ref(placed);
        let context = RouteContext { port: placed.listener.port, gateway: &gateway, client: None };
        let routes = self.routes(placed);
        let (set, rule) = routes.iter().find_map(|set| Some((set, set.tcp_at(&context).next()?.0)))?;
        let target = self.destinations(placed).route(set, &rule.destinations)?;
        Some(Chain { matcher, target: Target::Tcp(target), tls })
    }

    fn passthrough(&self, placed: &PlacedListener<'_>, names: &mut BTreeSet<SmolStr>) -> Vec<Chain> {
        let gateway = gateway_ref(placed);
        let context = RouteContext { port: placed.listener.port, gateway: &gateway, client: None };
        let mut chains = Vec::new();
        for set in &self.routes(placed) {
            for (rule, matched) in set.tls_at(&context) {
                let wanted = matched.sni_hosts.iter().map(|host| host.text().clone()).collect::<Vec<_>>();
                if wanted.iter().any(|name| names.contains(name)) {
                    continue;
                }
                let Some(target) = self.destinations(placed).route(set, &rule.destinations) else { continue };
                names.extend(wanted.iter().cloned());
                let matcher = ChainMatch { server_names: wanted, prefix_ranges: matched.destination_subnets.clone(), ..Default::default() };
                chains.push(Chain { matcher, target: Target::Tcp(target), tls: None });
            }
        }
        chains
    }

    // A chain for each service port and subset: the SNI of in-mesh mTLS names them.
    fn auto_passthrough(&self, placed: &PlacedListener<'_>) -> Vec<Chain> {
        let scope = self.view.scope;
        let wanted = |service: &Service| {
            let mesh = !service.mesh_external && service.external_name.is_none();
            mesh && placed.listener.hosts.iter().any(|host| host.shared(&service.namespace, &service.hostname).is_some())
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

    // Route sets that are bound to the listener's Gateway and may attach to one of its hosts, in Istio's order.
    fn routes(&self, placed: &PlacedListener<'_>) -> Vec<Arc<RouteSet>> {
        let mut found = routes_for_gateway(self.view.world, &self.view.scope.namespace, &gateway_ref(placed));
        found.retain(|set| placed.listener.hosts.iter().any(|of| set.hosts.iter().any(|host| of.shared(&set.namespace, host).is_some())));
        found
    }

    fn destinations(&self, placed: &PlacedListener<'_>) -> Destinations<'a> {
        Destinations {
            services: &self.view.scope.services,
            destination_rules: &self.view.scope.destination_rules,
            idle_timeout: self.view.class.idle_timeout,
            stat_name: &self.view.mesh.outbound_cluster_stat_name,
            port: placed.listener.port,
        }
    }
}

fn gateway_ref(placed: &PlacedListener<'_>) -> GatewayRef {
    GatewayRef::of(&placed.gateway.origin.object)
}

fn routed(placed: &PlacedListener<'_>) -> RoutedServer {
    let (object, listener) = (&placed.gateway.origin.object, placed.listener);
    RoutedServer {
        gateway: (object.namespace.clone(), object.name.clone()),
        port: listener.port,
        hosts: listener.hosts.clone(),
        https_redirect: listener.https_redirect,
    }
}

fn server_names(placed: &PlacedListener<'_>) -> ChainMatch {
    ChainMatch { server_names: placed.listener.hosts.iter().map(|of| of.host.text().clone()).collect(), ..Default::default() }
}

fn with_bind(name: SmolStr, bind: &str) -> SmolStr {
    if bind.is_empty() { name } else { format_smolstr!("{name}.{bind}") }
}

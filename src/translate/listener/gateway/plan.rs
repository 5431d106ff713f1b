//! Plans a gateway's listeners and route configurations from the listeners that its Gateways have on each port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use smol_str::{SmolStr, format_smolstr};

use super::{
    Chain, GatewayListenerInput, GatewayPlan, GatewayRouteTable, GatewayView, RoutedServer, Target,
    chains::{Chains, Claimant},
    server_tls::ServerTls,
};
use crate::{
    mesh::{
        gateway::{self, BindLimits, BoundRoutes, Handling, MergedPort, PlacedListener, Sharing, TlsTermination},
        model::{ObjectKey, Protocol, Service},
        routing::{
            model::{GatewayRef, RouteSet},
            selection::RouteContext,
        },
        scope::routes_for_gateway,
    },
    translate::{
        filter::network::TcpTarget,
        input::{ByPtr, ListenerClass},
        listener::{
            chain::ChainMatch,
            l4::Destinations,
            refused::{Onward, Reason, Refused},
        },
        naming::dns_srv,
    },
    visits::{Visit, Visited},
};

/// The label of a Service behind which gateways listen at the ports that servers name, and not at its target ports.
const AS_NUMBERED: &str = "experimental.istio.io/disable-gateway-port-translation";

pub(super) fn plan(view: GatewayView<'_>) -> GatewayPlan {
    let translating = view.targets.iter().filter(|target| !target.service.labels.contains_key(AS_NUMBERED));
    let targets = translating.filter_map(|target| Some((target.service.ports.get(target.port)?.number, target.target_port)));
    let class = ListenerClass::of(view.class);
    let everywhere = [Some(class.wildcard()), class.dual_stack().then_some("::")];
    let everywhere: Vec<IpAddr> = everywhere.into_iter().flatten().filter_map(|address| address.parse().ok()).collect();
    let limits = BindLimits { everywhere: &everywhere, ports: view.ports };
    let merged = gateway::merge(view.gateways, &targets.collect::<Vec<_>>(), limits);
    let bound = bound(&merged.ports, view);
    let refused = merged.refused.into_iter().map(Refused::from).collect();
    let mut planner = Planner { view, class, bound, tables: Vec::new(), refused };
    let mut listeners: Vec<_> = merged.ports.iter().filter_map(|port| planner.listener(port)).collect();
    listeners.sort_by_key(GatewayListenerInput::name);
    planner.tables.sort_by(|one, other| one.name.cmp(&other.name));
    GatewayPlan { listeners, tables: planner.tables, refused: planner.refused }
}

/// Passthrough routes whose chains a listener has, by Gateway and port of its servers, and whether there are any.
type Passed<'p> = BTreeMap<(&'p ObjectKey, u16, *const RouteSet), bool>;

/// Returns the routes of each Gateway of which listeners need them.
fn bound<'a>(ports: &[MergedPort<'a>], view: GatewayView<'_>) -> BTreeMap<&'a ObjectKey, BoundRoutes> {
    let mut bound = BTreeMap::new();
    let is_l4 = |placed: &&PlacedListener<'_>| matches!(placed.listener.handling(), Handling::Passthrough | Handling::Tcp(_));
    for placed in ports.iter().flat_map(|port| &port.listeners).filter(is_l4) {
        let routes = || routes_for_gateway(view.world, &view.scope.namespace, &gateway_ref(placed));
        bound.entry(&placed.gateway.origin.object).or_insert_with(|| BoundRoutes::new(routes()));
    }
    bound
}

struct Planner<'a> {
    view: GatewayView<'a>,
    class: ListenerClass,
    bound: BTreeMap<&'a ObjectKey, BoundRoutes>,
    tables: Vec<GatewayRouteTable>,
    refused: BTreeSet<Refused>,
}

impl<'a> Planner<'a> {
    /// Returns the listener of a port; `None` when nothing is behind it.
    fn listener(&mut self, port: &MergedPort<'_>) -> Option<GatewayListenerInput> {
        let chains = match port.sharing {
            Sharing::Http => vec![self.http(port)],
            Sharing::Tls | Sharing::Alone => {
                let mut chains = Chains::of_port(port.number);
                let mut passed = BTreeMap::new();
                port.listeners.iter().for_each(|placed| self.add(placed, &mut chains, &mut passed));
                let (chains, refused) = chains.into_parts();
                self.refused.extend(refused);
                chains
            }
        };
        if chains.is_empty() {
            return None;
        }
        let of_gateways = port.listeners.iter().map(|placed| &placed.gateway.origin);
        let mut origins = of_gateways.chain(&self.view.tokens.origins).cloned().collect::<Vec<_>>();
        origins.sort_unstable();
        origins.dedup();
        let bind = if port.bind.is_empty() { self.class.wildcard().into() } else { port.bind.clone() };
        let mesh = ByPtr::from(self.view.mesh);
        let (tokens, policies) = (Arc::clone(self.view.tokens), self.view.policies.clone());
        Some(GatewayListenerInput { class: self.class.clone(), mesh, tokens, policies, bind, port: port.number, chains, origins })
    }

    fn http(&mut self, port: &MergedPort<'_>) -> Chain {
        let name = with_bind(format_smolstr!("http.{}", port.number), &port.bind);
        let grpc_web = port.listeners.first().is_some_and(|placed| placed.listener.protocol == Protocol::GrpcWeb);
        let servers = port.listeners.iter().map(routed).collect();
        self.tables.push(GatewayRouteTable { name: name.clone(), servers });
        Chain { matcher: ChainMatch::default(), target: Target::Http { routes: name, grpc_web }, tls: None }
    }

    fn add<'p>(&mut self, placed: &PlacedListener<'p>, chains: &mut Chains, passed: &mut Passed<'p>) {
        let server = Claimant { origin: placed.gateway.origin.clone(), field: placed.listener.field.clone() };
        match placed.listener.handling() {
            Handling::Https(termination) => {
                let (chain, table) = self.https(placed, termination);
                if chains.add(chain, &server) {
                    self.tables.push(table);
                }
            }
            Handling::AutoPassthrough => {
                let of_services = self.auto_passthrough(placed);
                self.tell_if(of_services.is_empty(), placed, Onward::Services);
                for chain in of_services {
                    chains.add(chain, &server);
                }
            }
            Handling::Passthrough => {
                let routed = self.passthrough(placed, chains, passed);
                self.tell_if(!routed, placed, Onward::Tls);
            }
            Handling::Tcp(termination) => match self.tcp(placed, termination, chains) {
                Some(chain) => _ = chains.add(chain, &server),
                None => self.tell_if(true, placed, Onward::Tcp),
            },
            // HTTP listeners share one chain.
            Handling::Http => {}
        }
    }

    fn https(&self, placed: &PlacedListener<'_>, termination: &Arc<TlsTermination>) -> (Chain, GatewayRouteTable) {
        let (gateway, listener) = (&placed.gateway.origin.object, placed.listener);
        let name = format_smolstr!("https.{}.{}.{}.{}", listener.port, listener.port_name, gateway.name, gateway.namespace);
        let name = with_bind(name, &listener.bind);
        let tls = Some(ServerTls { termination: Arc::clone(termination), tcp: false });
        let chain = Chain { matcher: server_names(placed), target: Target::Http { routes: name.clone(), grpc_web: false }, tls };
        (chain, GatewayRouteTable { name, servers: vec![routed(placed)] })
    }

    /// Returns the chain of the one rule that has all connections of a server.
    fn tcp(&self, placed: &PlacedListener<'_>, termination: Option<&Arc<TlsTermination>>, chains: &mut Chains) -> Option<Chain> {
        let tls = termination.map(|termination| ServerTls { termination: Arc::clone(termination), tcp: true });
        let matcher = if tls.is_some() { server_names(placed) } else { ChainMatch::default() };
        let gateway = gateway_ref(placed);
        let context = RouteContext { port: placed.listener.port, gateway: &gateway, client: None };
        let mut applied = self.routes(placed).flat_map(|set| set.tcp_at(&context)).map(|(applied, _)| applied);
        let first = applied.next()?;
        for later in applied.filter(|later| later.loses_to(&first)) {
            chains.refuse(&Claimant::from(later.source()), &Claimant::from(first.source()));
        }
        let target = self.destinations(placed).route(first.set, &first.rule.destinations)?;
        Some(Chain { matcher, target: Target::Tcp(target), tls })
    }

    /// Tells a server from which nothing leads on: as in Istio it has no listener then, or no chain in that of others.
    fn tell_if(&mut self, leads_nowhere: bool, placed: &PlacedListener<'_>, onward: Onward) {
        if leads_nowhere {
            let (origin, listener) = (&placed.gateway.origin, placed.listener);
            self.refused.insert(Refused::new(origin, listener.field.clone(), Reason::LeadsNowhere(listener.port, onward)));
        }
    }

    /// Adds the chains of the routes; returns whether there are any. Several servers of a port may share routes.
    fn passthrough<'p>(&self, placed: &PlacedListener<'p>, chains: &mut Chains, passed: &mut Passed<'p>) -> bool {
        let mut routed = false;
        let gateway = gateway_ref(placed);
        let context = RouteContext { port: placed.listener.port, gateway: &gateway, client: None };
        for set in self.routes(placed) {
            let key = (&placed.gateway.origin.object, placed.listener.port, Arc::as_ptr(set));
            routed |= *passed.entry(key).or_insert_with(|| self.pass(set, placed, &context, chains));
        }
        routed
    }

    fn pass(&self, set: &RouteSet, placed: &PlacedListener<'_>, context: &RouteContext<'_>, chains: &mut Chains) -> bool {
        let mut routed = false;
        for (applied, matched) in set.tls_at(context).visiting(Visited::Written) {
            let Some(target) = self.destinations(placed).route(set, &applied.rule.destinations) else { continue };
            let server_names = matched.sni_hosts.iter().map(|host| host.text().clone()).collect();
            let matcher = ChainMatch { server_names, prefix_ranges: matched.destination_subnets.clone(), ..Default::default() };
            chains.add_route(Chain { matcher, target: Target::Tcp(target), tls: None }, &Claimant::from(applied.source()));
            routed = true;
        }
        routed
    }

    // A chain for each service port and subset: the SNI of in-mesh mTLS names them.
    fn auto_passthrough(&mut self, placed: &PlacedListener<'_>) -> Vec<Chain> {
        let scope = self.view.scope;
        let wanted = |service: &Service| {
            let mesh = !service.mesh_external && service.external_name.is_none();
            mesh && placed.listener.hosts.iter().any(|host| host.shared(&service.namespace, &service.hostname).is_some())
        };
        let (wildcards, mut services): (Vec<_>, Vec<_>) =
            scope.services.values().filter(|service| wanted(service)).partition(|service| service.hostname.is_wildcard());
        self.refused.extend(
            wildcards
                .into_iter()
                .map(|service| Refused::new(&service.origin, "spec.hosts", Reason::NoServerName(service.hostname.clone()))),
        );
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
    fn routes(&self, placed: &PlacedListener<'_>) -> impl Iterator<Item = &Arc<RouteSet>> {
        self.bound.get(&placed.gateway.origin.object).into_iter().flat_map(|bound| bound.attached(&placed.listener.hosts))
    }

    fn destinations(&self, placed: &PlacedListener<'_>) -> Destinations<'a> {
        Destinations {
            services: &self.view.scope.services,
            destination_rules: &self.view.scope.destination_rules,
            idle_timeout: self.view.class.idle_timeout,
            stat_name: &self.view.mesh.outbound_cluster_stat_name,
            port: placed.listener.port,
            protocol: placed.listener.protocol,
        }
    }
}

fn gateway_ref(placed: &PlacedListener<'_>) -> GatewayRef {
    GatewayRef::of(&placed.gateway.origin.object)
}

fn routed(placed: &PlacedListener<'_>) -> RoutedServer {
    let listener = placed.listener;
    RoutedServer {
        origin: placed.gateway.origin.clone(),
        field: listener.field.clone(),
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

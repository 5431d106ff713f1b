//! The route tables of sidecars: by port, by sniffed service, by Unix socket (contract §3.6).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use smol_str::{SmolStr, format_smolstr};

use super::{
    Content, DefaultRoute, HTTP_PROXY, LostDomain, RouteTable, VirtualHostInput,
    domains::{self, Taken},
    sharing::{is_too_much_at, united},
};
use crate::{
    mesh::{
        model::{HostIndex, Hostname, Service, ServicePort},
        routing::{
            model::{GatewayRef, HttpRule, RouteSet},
            selection::{Client, DEFAULT_HTTP_PORT, HttpSelection, RouteContext, SelectedRoutes, http_port, sidecar_routes},
        },
        scope::{EgressScope, Scope},
        settings::MeshSettings,
    },
    translate::{
        input::{ProxyClass, RouteTraits},
        listener::outbound::route_tables,
    },
    visits::{Visit, Visited},
};

/// Returns the names of all route tables that listeners of this scope may refer to.
pub fn tables(scope: &Scope, class: &ProxyClass, mesh: &MeshSettings) -> BTreeSet<SmolStr> {
    let mut names = BTreeSet::new();
    for egress in &scope.egress {
        let listener = egress.listener.as_ref();
        match listener.map(|listener| (listener.port, &listener.bind)) {
            Some((Some(0), bind)) => {
                names.insert(bind.clone());
            }
            listener => {
                let only = listener.and_then(|(port, _)| port);
                for (service, port) in ports(egress).filter(|(_, port)| only.is_none_or(|only| only == port.number)) {
                    names.extend(route_tables(egress, class, service, port));
                }
                names.extend(only.map(|port| format_smolstr!("{port}")));
            }
        }
    }
    if mesh.proxy_http_port > 0 {
        names.insert(HTTP_PROXY.into());
    }
    names
}

/// Returns the names of the route tables that may look different after a change of `hosts`: of the services of those names, of routes
/// for them, or of their DestinationRules. For hosts that appeared or vanished, ask the scope before and the scope after the change.
pub fn tables_with(scope: &Scope, class: &ProxyClass, mesh: &MeshSettings, hosts: &BTreeSet<&Hostname>) -> BTreeSet<SmolStr> {
    let mut names = BTreeSet::new();
    if hosts.is_empty() {
        return names;
    }
    // Routes may name a host by an ExternalName that stands for it.
    let aliases = hosts.iter().filter_map(|host| scope.services.get(*host)).flat_map(|service| &service.aliases);
    let destinations: BTreeSet<&Hostname> = hosts.iter().copied().chain(aliases).collect();
    let index: HostIndex = hosts.iter().map(|host| host.as_str()).collect();
    // Listeners mostly show the same routes.
    let mut before: Option<(&EgressScope, bool, BTreeSet<&Hostname>)> = None;
    for egress in &scope.egress {
        let known = before.take().filter(|(before, ..)| before.routes.ptr_eq(&egress.routes));
        let is_known = known.is_some();
        let (mut routed, mut wanted) = known.map_or_else(|| (false, hosts.clone()), |(_, routed, wanted)| (routed, wanted));
        for routes in (!is_known).then(|| sets(egress)).into_iter().flatten() {
            let for_them = || routes.hosts.iter().visiting(Visited::Route).any(|of| index.overlapping(of.as_str()).is_some());
            let to_them = || routes.http.iter().flat_map(HttpRule::destinations).any(|to| destinations.contains(&to.host));
            if for_them() || to_them() {
                routed = true;
                wanted.extend(&routes.hosts);
            }
        }
        for service in named(egress, &wanted) {
            for port in service.ports.iter().visiting(Visited::Port) {
                names.extend(route_tables(egress, class, service, port));
                names.insert(format_smolstr!("{}", port.number));
            }
        }
        if routed {
            names.insert(format_smolstr!("{DEFAULT_HTTP_PORT}"));
        }
        if let Some(listener) = egress.listener.as_ref().filter(|listener| listener.port == Some(0)) {
            names.insert(listener.bind.clone());
        }
        before = Some((egress, routed, wanted));
    }
    if mesh.proxy_http_port > 0 {
        names.insert(HTTP_PROXY.into());
    }
    existing_tables(scope, class, mesh, &names)
}

/// Returns the sets that a listener shows, each once, though it is listed for each of its hosts.
fn sets(egress: &EgressScope) -> impl Iterator<Item = &Arc<RouteSet>> {
    let mut seen = HashSet::new();
    let listed = egress.routes.values().flat_map(|listed| listed.iter()).visiting(Visited::Route);
    listed.filter(move |routes| seen.insert(Arc::as_ptr(routes)))
}

/// Returns the services that have one of these names, or one that a wildcard among them covers.
fn named<'a>(egress: &'a EgressScope, hosts: &BTreeSet<&Hostname>) -> impl Iterator<Item = &'a Arc<Service>> {
    let named = hosts.iter().visiting(Visited::Service).filter_map(|host| egress.services.get(*host));
    // Wildcards sort before names.
    let wildcards: HostIndex = hosts.iter().take_while(|host| host.is_wildcard()).map(|host| host.as_str()).collect();
    let all = (!wildcards.is_empty()).then(|| egress.services.iter().visiting(Visited::Service)).into_iter().flatten();
    let covered = all.filter(move |(name, _)| wildcards.covering(name.as_str()).is_some()).map(|(_, service)| service);
    named.chain(covered)
}

/// Returns those of the names that [`tables`] has. It walks all ports of all services in scope once, but makes names only for those
/// of the tables' ports.
pub fn existing_tables(scope: &Scope, class: &ProxyClass, mesh: &MeshSettings, names: &BTreeSet<SmolStr>) -> BTreeSet<SmolStr> {
    if names.is_empty() {
        return BTreeSet::new();
    }
    let number = |name: &SmolStr| name.rsplit_once(':').map_or(name.as_str(), |(_, port)| port).parse::<u16>().ok();
    let numbers: BTreeSet<u16> = names.iter().filter_map(number).collect();
    let mut there = BTreeSet::new();
    for egress in &scope.egress {
        let listener = egress.listener.as_ref();
        let only = match listener.map(|listener| (listener.port, &listener.bind)) {
            Some((Some(0), bind)) => {
                there.insert(bind.clone());
                continue;
            }
            listener => listener.and_then(|(port, _)| port),
        };
        there.extend(only.map(|only| format_smolstr!("{only}")));
        let asked = ports(egress).filter(|(_, port)| numbers.contains(&port.number) && only.is_none_or(|only| only == port.number));
        there.extend(asked.flat_map(|(service, port)| route_tables(egress, class, service, port)));
    }
    if mesh.proxy_http_port > 0 {
        there.insert(HTTP_PROXY.into());
    }
    names.intersection(&there).cloned().collect()
}

/// Returns the virtual hosts of a route table; `None` when no listener of this scope can name it.
pub fn table(scope: &Scope, class: &ProxyClass, mesh: &Arc<MeshSettings>, name: &str) -> Option<RouteTable> {
    let context = TableContext { scope, class, mesh };
    let mut lost = Vec::new();
    let hosts = if let Some(bind) = name.strip_prefix("unix:") {
        let egress = scope.egress.iter().find(|egress| egress.listener.as_ref().is_some_and(|listener| listener.bind.ends_with(bind)))?;
        context.all_ports(egress, &mut lost)
    } else if name == HTTP_PROXY {
        context.all_ports(scope.egress.iter().find(|egress| of_port(egress, 0))?, &mut lost)
    } else if let Some((host, port)) = name.rsplit_once(':') {
        let port = port.parse().ok()?;
        let egress = scope.egress.iter().find(|egress| of_port(egress, port))?;
        context.sniffed(egress, port, &Hostname::new(host), &mut lost)
    } else {
        let port = name.parse().ok()?;
        let egress = scope.egress.iter().find(|egress| of_port(egress, port))?;
        let mut hosts = context.port(egress, port, &mut lost);
        add_catch_all(&mut hosts, class.routes, scope.allow_any);
        hosts
    };
    Some(RouteTable { name: name.into(), hosts, lost, servers: None })
}

/// Returns all ports of the services that a listener shows.
fn ports(egress: &EgressScope) -> impl Iterator<Item = (&Arc<Service>, &ServicePort)> {
    let services = egress.services.values().visiting(Visited::Service);
    services.flat_map(|service| service.ports.iter().map(move |port| (service, port))).visiting(Visited::Port)
}

// A listener without a port takes the ports that no other has.
fn of_port(egress: &EgressScope, port: u16) -> bool {
    egress.listener.as_ref().and_then(|listener| listener.port).is_none_or(|of| of == port)
}

// Envoy refuses a table with two of them, and a VirtualService may be for every host.
fn add_catch_all(hosts: &mut Vec<VirtualHostInput>, traits: RouteTraits, allow_any: bool) {
    if !hosts.iter().any(|host| host.domains.iter().any(|domain| domain == "*")) {
        hosts.push(catch_all(traits, allow_any));
    }
}

fn catch_all(traits: RouteTraits, allow_any: bool) -> VirtualHostInput {
    let (name, content) = if allow_any { ("allow_any", Content::AllowAny) } else { ("block_all", Content::BlockAll) };
    VirtualHostInput { name: name.into(), domains: vec!["*".into()], traits, content }
}

/// The proxies that a table is for.
struct TableContext<'a> {
    scope: &'a Scope,
    class: &'a ProxyClass,
    mesh: &'a Arc<MeshSettings>,
}

/// What a port has: services, and routes for some of them.
struct PortView<'a> {
    port: u16,
    egress: &'a EgressScope,
    /// How many ports all services have together.
    ports: usize,
    /// Services that have the port, whatever it speaks.
    services: BTreeMap<&'a Hostname, &'a Arc<Service>>,
    selected: Vec<SelectedRoutes<'a>>,
}

impl<'a> TableContext<'a> {
    fn port(&self, egress: &'a EgressScope, port: u16, lost: &mut Vec<LostDomain>) -> Vec<VirtualHostInput> {
        let view = self.view(egress, port, |service| service.port(port).is_some());
        let mut hosts = self.hosts(&view, lost);
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        hosts
    }

    fn sniffed(&self, egress: &'a EgressScope, port: u16, host: &Hostname, lost: &mut Vec<LostDomain>) -> Vec<VirtualHostInput> {
        let view = self.view(egress, port, |service| service.hostname == *host && service.port(port).is_some());
        let mut lost_here = Vec::new();
        let mut hosts = self.hosts(&view, &mut lost_here);
        // Whatever else has no domain here has it in the table of the port.
        lost.extend(lost_here.into_iter().filter(|lost| lost.domain == host.as_str()));
        hosts.retain(|input| input.domains.iter().any(|domain| domain == host.as_str()));
        for input in &mut hosts {
            input.domains = vec!["*".into()];
        }
        hosts
    }

    // A listener that is not for one port: domains of services carry the port, those of port 80 stand without it too. A
    // host that belongs to no service is served at port 80 alone.
    fn all_ports(&self, egress: &'a EgressScope, lost: &mut Vec<LostDomain>) -> Vec<VirtualHostInput> {
        let ports: BTreeSet<u16> = ports(egress).map(|(_, port)| port.number).collect();
        let mut hosts: Vec<_> = ports
            .into_iter()
            .flat_map(|port| {
                let mut hosts = self.port(egress, port, lost);
                for host in &mut hosts {
                    let plain = std::mem::take(&mut host.domains);
                    let service = host.name.rsplit_once(':').is_some_and(|(name, _)| egress.services.contains_key(&Hostname::new(name)));
                    let forms = |domain: SmolStr| {
                        let with_port = service.then(|| format_smolstr!("{domain}:{port}"));
                        (port == DEFAULT_HTTP_PORT).then_some(domain).into_iter().chain(with_port)
                    };
                    host.domains = plain.into_iter().flat_map(forms).collect();
                }
                hosts.retain(|host| !host.domains.is_empty());
                hosts
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        add_catch_all(&mut hosts, self.class.routes, self.scope.allow_any);
        hosts
    }

    fn view(&self, egress: &'a EgressScope, port: u16, has: impl Fn(&Service) -> bool) -> PortView<'a> {
        let mut ports = 0;
        let all = egress.services.iter().visiting(Visited::Service).inspect(|(_, service)| ports += service.ports.len());
        let services: BTreeMap<_, _> = all.filter(|(_, service)| has(service)).collect();
        let client = Client { namespace: &self.class.namespace, labels: &self.class.labels };
        let context = RouteContext { port, gateway: &GatewayRef::Mesh, client: Some(client) };
        let selected = sidecar_routes(&egress.routes, &services, &context, self.scope.backends());
        PortView { port, egress, ports, services, selected }
    }

    fn hosts(&self, view: &PortView<'a>, lost: &mut Vec<LostDomain>) -> Vec<VirtualHostInput> {
        let port = view.port;
        let mut taken = Taken::new();
        let names: HashSet<&str> = view.services.keys().map(|host| host.as_str()).collect();
        let known = |name: &str| names.contains(name);
        let of_routes = |selection: &Arc<HttpSelection>| Content::Routes {
            mesh: self.mesh.into(),
            selections: vec![Arc::clone(selection)],
            tls: false,
            require_tls: false,
        };
        let mut hosts = Vec::new();
        let mut push = |host: &Hostname, domains: Vec<SmolStr>, content| {
            if !domains.is_empty() {
                hosts.push(VirtualHostInput { name: format_smolstr!("{host}:{port}"), domains, traits: self.class.routes, content });
            }
        };
        let mut done: BTreeSet<&Hostname> = BTreeSet::new();
        for SelectedRoutes { selection, services, hosts: names } in &view.selected {
            let origin = &selection.routes.origin;
            let content = match is_too_much_at(view.egress, view.ports, selection) {
                true => Content::Closed(origin.clone()),
                false => of_routes(selection),
            };
            let mut claim_name = |host: &&'a Hostname| (*host, taken.claim_one(origin, host.text().clone()));
            let (elsewhere, names): (Vec<_>, Vec<_>) =
                names.iter().filter(|host| done.insert(host)).partition(|host| view.egress.services.contains_key(**host));
            let [elsewhere, names] = [elsewhere, names].map(|names| names.into_iter().map(&mut claim_name).collect());
            let services = services.iter().filter(|service| done.insert(&service.hostname)).map(|service| {
                let domains = domains::of_service(service, port, &self.class.dns_domain);
                (&service.hostname, taken.claim(&service.origin, domains, &known))
            });
            for claims in [names, elsewhere, services.collect()] {
                for (host, domains) in united(claims, selection.weight()) {
                    push(host, domains, content.clone());
                }
            }
        }
        for (host, service) in &view.services {
            if http_port(service, port).is_none() || service.external_name.is_some() || !done.insert(host) {
                continue;
            }
            let rule = self.scope.destination_rules.get(*host);
            let content = Content::Service(DefaultRoute::new(self.mesh, service, port, rule));
            push(host, taken.claim(&service.origin, domains::of_service(service, port, &self.class.dns_domain), &known), content);
        }
        lost.extend(taken.into_lost());
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{self, Labels},
        mesh::{
            engine::Engine,
            model::{Flavour, Interception, ProxyKind},
            scope,
            world::World,
        },
    };

    const SERVICES: [&str; 3] = [
        "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}, {name: auto, port: 81}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: b, namespace: n}, spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 8080}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: c, namespace: n}, spec: {type: ExternalName, externalName: b.n.svc.cluster.local}}",
    ];
    const ROUTES: [&str; 5] = [
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: n}, spec: {hosts: [a, other.example.com], http: [{route: [{destination: {host: b}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: w, namespace: n}, spec: {hosts: ['*.n.svc.cluster.local'], http: [{route: [{destination: {host: c}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: o, namespace: n}, spec: {hosts: [alone.example.com], http: [{route: [{destination: {host: a, port: {number: 81}}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: l, namespace: n}, spec: {hosts: [by-alias.example.com], http: [{route: [{destination: {host: c, port: {number: 8080}}}]}]}}",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: b, namespace: n}, spec: {host: b, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}}}",
    ];

    fn world(objects: &[&str]) -> Arc<World> {
        let mut engine = Engine::new("cluster.local", api::mesh_config::MeshConfig::default());
        let read = |object: &&str| api::parse(&api::yaml::document(api::yaml::documents(object)[0]).unwrap(), &"Kubernetes".into()).objects;
        let changes: Vec<_> = objects.iter().flat_map(read).map(|object| (object.key.clone(), Some(object))).collect();
        assert_eq!(changes.len(), objects.len());
        engine.apply(changes).world
    }

    fn scope_of(world: &World) -> Scope {
        scope::scope(world, ProxyKind::Sidecar, "n", &Labels::new())
    }

    fn class() -> ProxyClass {
        ProxyClass {
            kind: ProxyKind::Sidecar,
            flavour: Flavour::Stock,
            interception: Interception::Redirect,
            namespace: "n".into(),
            dns_domain: "n.svc.cluster.local".into(),
            ipv4: true,
            ipv6: false,
            http10: false,
            idle_timeout: None,
            labels: Arc::default(),
            peers: false,
            routes: Default::default(),
            preserves_case: false,
            listener: Default::default(),
        }
    }

    // The contents of every table, as its virtual hosts would be built.
    fn contents(scope: &Scope, world: &World) -> BTreeMap<SmolStr, String> {
        let class = class();
        let table = |name: &SmolStr| {
            let table = table(scope, &class, &world.mesh, name).unwrap();
            let hosts: Vec<_> = table.hosts.iter().map(|host| super::super::virtual_host(host).message).collect();
            (name.clone(), format!("{hosts:?}"))
        };
        tables(scope, &class, &world.mesh).iter().map(table).collect()
    }

    #[test]
    fn every_table_that_an_object_changes_is_among_those_with_its_host() {
        let all: Vec<&str> = SERVICES.iter().chain(&ROUTES).copied().collect();
        let touched = ["a", "b", "c", "a", "*", "alone.example.com", "by-alias.example.com", "b"];
        let after = world(&all);
        for (left_out, host) in touched.iter().enumerate() {
            let mut fewer = all.clone();
            fewer.remove(left_out);
            let before = world(&fewer);
            let (old, new) = (scope_of(&before), scope_of(&after));
            let (then, now) = (contents(&old, &before), contents(&new, &after));
            let changed: BTreeSet<_> = then.keys().chain(now.keys()).filter(|name| then.get(*name) != now.get(*name)).collect();
            assert!(!changed.is_empty(), "{}: the test changes nothing", all[left_out]);
            let host = match *host {
                full if full.ends_with(".com") => Hostname::new(full),
                short => Hostname::new(format!("{short}.n.svc.cluster.local")),
            };
            let host = BTreeSet::from([&host]);
            let mut named = tables_with(&old, &class(), &before.mesh, &host);
            named.extend(tables_with(&new, &class(), &after.mesh, &host));
            // A table that is gone is not made again.
            let missed: Vec<_> = changed.into_iter().filter(|name| now.contains_key(*name) && !named.contains(*name)).collect();
            assert!(missed.is_empty(), "{}: {missed:?} change and are not named", all[left_out]);
        }
    }
}

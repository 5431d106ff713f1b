use std::collections::BTreeMap;

use super::*;
use crate::{
    api::{self, mesh_config::MeshConfig},
    mesh::{
        engine::Engine,
        model::ProxyKind,
        routing::model::{Destination, RouteSet},
        scope::{Scope, scope},
        world::World,
    },
};

const SERVICES: [&str; 4] = [
    "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: b, namespace: n}, spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 8080}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: t, namespace: n}, spec: {clusterIP: 10.0.0.3, ports: [{name: tcp, port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: c, namespace: n}, spec: {type: ExternalName, externalName: b.n.svc.cluster.local}}",
];

fn world(objects: &[&str]) -> Arc<World> {
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let read = |object: &str| {
        let read = api::parse(&api::yaml::document(api::yaml::documents(object)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(read.objects.len(), 1, "{:?}", read.diagnostics);
        Arc::clone(&read.objects[0])
    };
    let changes = SERVICES.iter().chain(objects).map(|object| read(object)).map(|object| (object.key.clone(), Some(object)));
    engine.apply(changes.collect::<Vec<_>>()).world
}

fn virtual_service(name: &str, spec: &str) -> String {
    format!("{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: n}}, spec: {spec}}}")
}

fn routes<'a>(world: &'a World, name: &str) -> &'a Arc<RouteSet> {
    &world.routes[&("n".into(), name.into())]
}

fn sidecar_scope(world: &World) -> Scope {
    scope(world, ProxyKind::Sidecar, "n", &Labels::new())
}

fn host(name: &str) -> Hostname {
    Hostname::new(format!("{name}.n.svc.cluster.local"))
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn at_sidecar<'a>(port: u16, labels: &'a Labels) -> RouteContext<'a> {
    RouteContext { port, gateway: &GatewayRef::Mesh, client: Some(Client { namespace: "n", labels }) }
}

/// Returns the names of the rules that apply, with the numbers of their matches.
fn chosen(routes: &Arc<RouteSet>, context: &RouteContext<'_>, scope: &Scope) -> Vec<String> {
    let selection = HttpSelection::of(routes, context, scope.backends());
    let described = |selection: &HttpSelection| -> Vec<String> {
        selection.rules().map(|(rule, matched)| format!("{}{}", rule.name, matched.map_or("", |matched| &matched.name))).collect()
    };
    selection.as_ref().map(described).unwrap_or_default()
}

#[test]
fn matches_are_decided_by_port_gateway_labels_and_namespace() {
    let spec = "{hosts: [a], gateways: [mesh, public], http: [
      {name: port, match: [{name: '-80', uri: {prefix: /x}, port: 80}, {name: '-81', uri: {prefix: /x}, port: 81}], route: [{destination: {host: a}}]},
      {name: labels, match: [{uri: {prefix: /y}, sourceLabels: {app: web}}], route: [{destination: {host: a}}]},
      {name: namespace, match: [{uri: {prefix: /z}, sourceNamespace: other}], route: [{destination: {host: a}}]},
      {name: gateway, match: [{uri: {prefix: /g}, gateways: [public], sourceLabels: {app: none}}], route: [{destination: {host: a}}]}]}";
    let world = world(&[&virtual_service("r", spec)]);
    let (scope, set) = (sidecar_scope(&world), routes(&world, "r"));
    let (none, web) = (Labels::new(), labels(&[("app", "web")]));
    assert_eq!(chosen(set, &at_sidecar(80, &none), &scope), ["port-80"]);
    assert_eq!(chosen(set, &at_sidecar(81, &web), &scope), ["port-81", "labels"]);
    let elsewhere = RouteContext { client: Some(Client { namespace: "other", labels: &none }), ..at_sidecar(82, &none) };
    assert_eq!(chosen(set, &elsewhere, &scope), ["namespace"]);
    assert_eq!(HttpSelection::of(set, &at_sidecar(82, &none), scope.backends()), None);
    let public = GatewayRef::istio(&"n".into(), &"public".into());
    let at_gateway = RouteContext { gateway: &public, ..at_sidecar(82, &none) };
    assert_eq!(chosen(set, &at_gateway, &scope), Vec::<String>::new(), "labels count beside gateways");
    let labelled = labels(&[("app", "none")]);
    let at_gateway = RouteContext { client: Some(Client { namespace: "n", labels: &labelled }), ..at_gateway };
    assert_eq!(chosen(set, &at_gateway, &scope), ["gateway"]);
    let anybody = RouteContext { client: None, ..at_sidecar(82, &none) };
    assert_eq!(chosen(set, &anybody, &scope), ["labels", "namespace"]);
}

#[test]
fn nothing_follows_a_match_that_takes_everything() {
    let spec = "{hosts: [a], http: [
      {name: first, match: [{name: -x, uri: {prefix: /x}}, {name: -all, uri: {prefix: /}, sourceLabels: {app: web}}, {name: -y, uri: {prefix: /y}}],
       route: [{destination: {host: a}}]},
      {name: rest, route: [{destination: {host: a}}]}]}";
    let world = world(&[&virtual_service("r", spec)]);
    let (scope, set) = (sidecar_scope(&world), routes(&world, "r"));
    assert_eq!(chosen(set, &at_sidecar(80, &labels(&[("app", "web")])), &scope), ["first-x", "first-all"]);
    assert_eq!(chosen(set, &at_sidecar(80, &Labels::new()), &scope), ["first-x", "first-y", "rest"]);
}

#[test]
fn destinations_are_resolved_for_the_listener() {
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: b, namespace: n}, spec: {host: b, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}}}";
    let spec = "{hosts: [a], gateways: [mesh, public], http: [{route: [{destination: {host: b}, weight: 1}, {destination: {host: c}, weight: 1}, {destination: {host: a, port: {number: 99}}, weight: 1}]}]}";
    let world = world(&[&virtual_service("r", spec), rule]);
    let (scope, set, none) = (sidecar_scope(&world), routes(&world, "r"), Labels::new());
    let public = GatewayRef::istio(&"n".into(), &"public".into());
    let resolved = |context: &RouteContext<'_>| -> Vec<(String, u16, bool)> {
        let selection = HttpSelection::of(set, context, scope.backends()).unwrap();
        let to: Vec<_> = selection.rules().flat_map(|(rule, _)| rule.destinations()).cloned().collect();
        let resolved = to.iter().map(|destination| selection.resolved(destination).unwrap());
        resolved.map(|to| (to.host.to_string().replace(".n.svc.cluster.local", ""), to.port, to.hash_key().is_some())).collect()
    };
    let expected = |port: u16, alias: u16| [("b".to_owned(), port, true), ("b".to_owned(), alias, true), ("a".to_owned(), 99, false)];
    assert_eq!(resolved(&at_sidecar(80, &none)), expected(80, 80), "a sidecar knows the port it listens on");
    let at_gateway = RouteContext { gateway: &public, ..at_sidecar(80, &none) };
    assert_eq!(resolved(&at_gateway), expected(8080, 80), "a gateway takes the only port of the service");
}

#[test]
fn tcp_rules_are_for_networks_or_for_every_connection() {
    let spec = "{hosts: [t], tcp: [
      {match: [{destinationSubnets: [10.1.0.0/16]}, {destinationSubnets: [10.2.0.0/16], port: 81}], route: [{destination: {host: a}}]},
      {match: [{sourceLabels: {app: web}}], route: [{destination: {host: b}}]},
      {match: [{gateways: [public]}], route: [{destination: {host: c}}]},
      {route: [{destination: {host: t}}]}]}";
    let world = world(&[&virtual_service("r", spec)]);
    let set = routes(&world, "r");
    let at = |context: RouteContext<'_>| -> Vec<(String, Option<Vec<String>>)> {
        let rules = set.tcp_at(&context);
        let name = |host: &Hostname| host.as_str().chars().take(1).collect();
        rules
            .map(|(applied, nets)| {
                (name(&applied.rule.destinations[0].destination.host), nets.map(|nets| nets.iter().map(|net| net.to_string()).collect()))
            })
            .collect()
    };
    let (none, web) = (Labels::new(), labels(&[("app", "web")]));
    let one = || ("a".to_owned(), Some(vec!["10.1.0.0/16".to_owned()]));
    assert_eq!(at(at_sidecar(80, &none)), [one(), ("t".to_owned(), None)]);
    assert_eq!(at(at_sidecar(80, &web)), [one(), ("b".to_owned(), None), ("t".to_owned(), None)]);
    let both = ("a".to_owned(), Some(vec!["10.1.0.0/16".to_owned(), "10.2.0.0/16".to_owned()]));
    assert_eq!(at(at_sidecar(81, &none)), [both, ("t".to_owned(), None)]);
    assert_eq!(at(at_sidecar(0, &none))[0], ("a".to_owned(), None), "a Unix domain socket has no addresses to tell apart");
    assert_eq!(at(RouteContext { client: None, ..at_sidecar(80, &none) }).len(), 3, "without a client what is asked of it holds");
}

#[test]
fn tls_rules_apply_match_by_match() {
    let spec = "{hosts: [t, '*.example.com'], tls: [
      {match: [{sniHosts: [x.example.com]}, {sniHosts: [y.example.com], port: 444}], route: [{destination: {host: t}}]}]}";
    let world = world(&[&virtual_service("r", spec)]);
    let (set, none) = (routes(&world, "r"), Labels::new());
    let names =
        |port: u16| -> Vec<String> { set.tls_at(&at_sidecar(port, &none)).map(|(_, matched)| matched.sni_hosts[0].to_string()).collect() };
    assert_eq!((names(443), names(444).len()), (vec!["x.example.com".to_owned()], 2));
    let listed = &sidecar_scope(&world).egress[0].routes;
    let found = |host: &Hostname| l4_sets(listed, host).len();
    assert_eq!([host("t"), Hostname::new("a.example.com"), host("a")].map(|host| found(&host)), [1, 1, 0]);
}

#[test]
fn the_port_of_connections_is_written_or_the_only_one_or_the_listeners() {
    let world = world(&[]);
    let scope = sidecar_scope(&world);
    let to = |name: &str, port| Destination { host: host(name), subset: Default::default(), port };
    let ports = [to("b", Some(1)), to("b", None), to("unknown", None)].map(|to| l4_port(&to, &scope.services, 443));
    assert_eq!(ports, [1, 8080, 443]);
}

/// Returns the services of each set that is selected from, and its hosts that are no services.
fn sidecar_selection(world: &World, port: u16, labels: &Labels) -> BTreeMap<String, Vec<String>> {
    let scope = sidecar_scope(world);
    let egress = &scope.egress[0];
    let services = egress.services.iter().filter(|(_, service)| service.port(port).is_some()).collect();
    let selected = sidecar_routes(&egress.routes, &services, &at_sidecar(port, labels), scope.backends());
    let entry = |entry: &SelectedRoutes<'_>| {
        let services = entry.services.iter().map(|service| service.name.to_string());
        let hosts = entry.hosts.iter().map(|host| host.to_string());
        (entry.selection.routes.name.to_string(), services.chain(hosts).collect())
    };
    selected.iter().map(entry).collect()
}

#[test]
fn services_have_the_most_specific_set_and_other_hosts_one_at_port_80() {
    let to_a = "http: [{route: [{destination: {host: a}}]}]";
    let world = world(&[
        &virtual_service("exact", &format!("{{hosts: [a, other.example.com], {to_a}}}")),
        &virtual_service("wild", &format!("{{hosts: ['*.n.svc.cluster.local'], {to_a}}}")),
    ]);
    let none = Labels::new();
    let at_80 = sidecar_selection(&world, 80, &none);
    assert_eq!(at_80["exact"], ["a", "other.example.com"]);
    assert_eq!(at_80["wild"], Vec::<String>::new(), "a service of another protocol takes no HTTP routes");
    let at_8080 = sidecar_selection(&world, 8080, &none);
    assert_eq!(at_8080, BTreeMap::from([("wild".to_owned(), vec!["b".to_owned()])]));
}

#[test]
fn a_younger_set_has_a_host_of_its_own_where_the_older_has_nothing_for_the_proxy() {
    let only_web = "match: [{sourceLabels: {app: web}}], ";
    let spec = |hosts: &str, matches: &str| format!("{{hosts: [{hosts}], http: [{{{matches}route: [{{destination: {{host: a}}}}]}}]}}");
    let world = world(&[
        &virtual_service("a-old", &spec("b", only_web)),
        &virtual_service("b-young", &spec("b", "")),
        &virtual_service("c-old", &spec("'*.svc.cluster.local'", only_web)),
        &virtual_service("d-young", &spec("'*.svc.cluster.local'", "")),
    ]);
    let names = |labels: &[(&str, &str)]| sidecar_selection(&world, 8080, &self::labels(labels)).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&[("app", "web")]), ["a-old"]);
    assert_eq!(names(&[]), ["b-young"]);
    let at_80 = sidecar_selection(&world, 80, &Labels::new());
    assert!(!at_80.contains_key("d-young"), "services take a wildcard's oldest set or none: {at_80:?}");
}

mod any_order;
mod clusters;
mod copies;
mod oracle;
mod selected;

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::*;
use crate::{
    api::{
        Labels, Metadata, Spec,
        istio::{self, PeerMtlsMode},
        kubernetes::{EndpointSlice, Pod, Service as KubernetesService, ServicePort as KubernetesPort, SliceEndpoint},
    },
    mesh::{
        model::{Backend, Endpoint, EndpointAddress, MtlsMode, ProxyKind, Service, SpiffeId},
        policy::mtls,
        scope::{Scope, scope},
    },
};

pub(super) type Change = (ObjectKey, Option<Arc<Object>>);

pub(super) fn object(kind: Kind, namespace: &str, name: &str, labels: &[(&str, &str)], spec: Spec) -> Change {
    let key = ObjectKey { cluster: "Kubernetes".into(), kind, namespace: namespace.into(), name: name.into() };
    let metadata = Arc::new(Metadata { labels: labels_of(labels).into(), ..Metadata::default() });
    (key.clone(), Some(Arc::new(Object { key, version: "v1".into(), metadata, spec })))
}

fn labels_of(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

pub(super) fn gone((key, _): Change) -> Change {
    (key, None)
}

/// Returns the change as another cluster would report it.
pub(super) fn elsewhere((key, object): Change) -> Change {
    let key = ObjectKey { cluster: "there".into(), ..key };
    let object = object.map(|object| Arc::new(Object { key: key.clone(), ..Object::clone(&object) }));
    (key, object)
}

pub(super) fn node(name: &str, region: &str) -> Change {
    object(Kind::Node, "", name, &[("topology.kubernetes.io/region", region)], Spec::Node)
}

pub(super) fn service(namespace: &str, name: &str, port: u16) -> Change {
    let ports = vec![KubernetesPort { name: "http".into(), port, ..Default::default() }];
    let spec = KubernetesService { ports, selector: labels_of(&[("app", name)]).into(), ..Default::default() };
    object(Kind::Service, namespace, name, &[], Spec::Service(Arc::new(spec)))
}

pub(super) fn external_name(namespace: &str, name: &str, target: &str) -> Change {
    let spec = KubernetesService { external_name: Some(target.into()), ..Default::default() };
    object(Kind::Service, namespace, name, &[], Spec::Service(Arc::new(spec)))
}

pub(super) fn pod(namespace: &str, name: &str, ip: &str, labels: &[(&str, &str)]) -> Change {
    let ips = [ip.parse().unwrap()].into();
    let spec = Pod { service_account: "runner".into(), node: "n1".into(), ips, ready: true, ..Default::default() };
    object(Kind::Pod, namespace, name, labels, Spec::Pod(Arc::new(spec)))
}

pub(super) fn slice(namespace: &str, service: &str, pods: &[(&str, &str)]) -> Change {
    let endpoint = |(pod, ip): &(&str, &str)| SliceEndpoint {
        addresses: vec![(*ip).into()],
        ready: true,
        pod: Some((namespace.into(), (*pod).into())),
        ..Default::default()
    };
    let spec = EndpointSlice {
        service: service.into(),
        address_type: "IPv4".into(),
        ports: vec![("http".into(), 8080)],
        endpoints: pods.iter().map(endpoint).collect(),
    };
    object(Kind::EndpointSlice, namespace, &format!("{service}-a"), &[], Spec::EndpointSlice(Arc::new(spec)))
}

pub(super) fn weights(namespace: &str, name: &str, to: &str, weights: &[(&str, u32)]) -> Change {
    let route = weights.iter().map(|(subset, weight)| istio::RouteDestination {
        destination: istio::Destination { host: to.into(), subset: (*subset).into(), port: None },
        weight: *weight,
        ..Default::default()
    });
    let http = vec![istio::HttpRoute { route: route.collect(), ..Default::default() }];
    let spec = istio::VirtualService { hosts: vec![name.into()], http, ..Default::default() };
    object(Kind::VirtualService, namespace, name, &[], Spec::VirtualService(Arc::new(spec)))
}

pub(super) fn subsets(namespace: &str, name: &str, host: &str, names: &[&str]) -> Change {
    let subset = |name: &&str| istio::Subset { name: (*name).into(), labels: labels_of(&[("version", name)]), traffic_policy: None };
    let spec = istio::DestinationRule { host: host.into(), subsets: names.iter().map(subset).collect(), ..Default::default() };
    object(Kind::DestinationRule, namespace, name, &[], Spec::DestinationRule(Arc::new(spec)))
}

pub(super) fn peer_mode(namespace: &str, name: &str, mode: PeerMtlsMode) -> Change {
    let spec = istio::PeerAuthentication { mode, ..Default::default() };
    object(Kind::PeerAuthentication, namespace, name, &[], Spec::PeerAuthentication(Arc::new(spec)))
}

pub(super) fn engine() -> Engine {
    Engine::new("cluster.local", MeshConfig { multi_root: true, ..MeshConfig::default() })
}

fn host(name: &str) -> Hostname {
    Hostname::new(format!("{name}.shop.svc.cluster.local"))
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { hostname: host(name), namespace: "shop".into() }
}

fn shop() -> Vec<Change> {
    vec![
        node("n1", "westeurope"),
        service("shop", "reviews", 9080),
        pod("shop", "reviews-1", "10.1.0.1", &[("app", "reviews"), ("version", "v1"), ("security.istio.io/tlsMode", "istio")]),
        pod("shop", "reviews-2", "10.1.0.2", &[("app", "reviews"), ("version", "v2"), ("security.istio.io/tlsMode", "istio")]),
        slice("shop", "reviews", &[("reviews-1", "10.1.0.1")]),
        subsets("shop", "reviews", "reviews", &["v1", "v2"]),
        weights("shop", "reviews", "reviews", &[("v1", 90), ("v2", 10)]),
    ]
}

fn default_scope(world: &World) -> Scope {
    scope(world, ProxyKind::Sidecar, "shop", &Labels::new())
}

#[test]
fn an_endpoint_joins_slice_pod_and_node() {
    let world = engine().apply(shop()).world;
    let endpoints = world.endpoints[&key("reviews")].port(9080).to_vec();
    assert_eq!(endpoints.len(), 1);
    let endpoint = &endpoints[0];
    assert_eq!((endpoint.port, endpoint.mtls, endpoint.backend.locality.region.as_str()), (8080, true, "westeurope"));
    assert_eq!((endpoint.backend.workload.as_str(), endpoint.backend.cluster.as_str()), ("reviews-1", "Kubernetes"));
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/runner").unwrap();
    assert_eq!(world.services[&key("reviews")].service_accounts, [identity]);
}

#[test]
fn objects_applied_again_touch_nothing() {
    let mut engine = engine();
    engine.apply(shop());
    let again = engine.apply(shop());
    assert_eq!((again.touched, again.recomputed), (Touched::default(), 0));
}

#[test]
fn an_endpoint_touches_the_endpoints_of_its_host_alone() {
    let mut engine = engine();
    engine.apply(shop());
    let touched = engine.apply([slice("shop", "reviews", &[("reviews-1", "10.1.0.1"), ("reviews-2", "10.1.0.2")])]).touched;
    let expected = Touched {
        endpoints: [host("reviews")].into(),
        addresses: FxHashSet::from_iter(["10.1.0.2".parse().unwrap()]),
        ..Touched::default()
    };
    assert_eq!(touched, expected);
}

#[test]
fn a_weight_touches_the_routes_of_its_host_alone() {
    let mut engine = engine();
    engine.apply(shop());
    let touched = engine.apply([weights("shop", "reviews", "reviews", &[("v1", 50), ("v2", 50)])]).touched;
    assert_eq!(touched, Touched { routes: [host("reviews")].into(), ..Touched::default() });
}

#[test]
fn a_rule_touches_its_service_and_the_routes_that_lead_there() {
    let mut engine = engine();
    engine.apply(shop());
    engine.apply([weights("shop", "front", "reviews", &[("v1", 1)])]);
    let touched = engine.apply([subsets("shop", "reviews", "reviews", &["v1"])]).touched;
    assert_eq!(touched.services, [host("reviews")].into());
    assert_eq!(touched.routes, [host("front"), host("reviews")].into());
    assert!(touched.endpoints.is_empty() && !touched.everything);
}

#[test]
fn namespace_disable_takes_the_flag_away_and_touches_the_services() {
    let mut engine = engine();
    engine.apply(shop());
    let applied = engine.apply([peer_mode("shop", "default", PeerMtlsMode::Disable)]);
    assert!(!applied.world.endpoints[&key("reviews")].port(9080)[0].mtls);
    assert_eq!(applied.touched.services, [host("reviews")].into());
    assert_eq!(applied.touched.endpoints, [host("reviews")].into());
    assert_eq!(applied.touched.namespaces, ["shop".into()].into());
    let applied = engine.apply([gone(peer_mode("shop", "default", PeerMtlsMode::Disable))]);
    assert!(applied.world.endpoints[&key("reviews")].port(9080)[0].mtls);
}

#[test]
fn an_external_name_is_an_alias_of_its_target() {
    let mut engine = engine();
    engine.apply([external_name("shop", "old", "reviews.shop.svc.cluster.local")]);
    let world = engine.apply(shop()).world;
    assert_eq!(world.services[&key("reviews")].aliases, [host("old")]);
    let applied = engine.apply([gone(service("shop", "old", 1))]);
    assert!(applied.world.services[&key("reviews")].aliases.is_empty());
    assert!(applied.touched.services.contains(&host("reviews")));
}

#[test]
fn a_change_costs_the_same_among_many_services() {
    let count = |others: usize| {
        let mut engine = engine();
        engine.apply(shop());
        engine.apply((0..others).flat_map(|at| {
            let name = format!("other-{at}");
            let ip = format!("10.2.{}.{}", at / 250, at % 250);
            let pod_name = format!("{name}-1");
            [service("shop", &name, 80), pod("shop", &pod_name, &ip, &[("app", &name)]), slice("shop", &name, &[(&pod_name, &ip)])]
        }));
        let endpoint = engine.apply([slice("shop", "reviews", &[("reviews-2", "10.1.0.2")])]).recomputed;
        let weight = engine.apply([weights("shop", "reviews", "reviews", &[("v1", 1)])]).recomputed;
        (endpoint, weight)
    };
    assert_eq!(count(10), (2, 1));
    assert_eq!(count(2_000), (2, 1));
}

#[test]
fn the_scope_sees_services_routes_and_rules() {
    let world = engine().apply(shop()).world;
    let scope = default_scope(&world);
    assert!(scope.services.contains_key(&host("reviews")));
    assert_eq!(scope.destination_rules[&host("reviews")].subsets.len(), 2);
    assert_eq!(scope.egress[0].routes[&host("reviews")][0].name, "reviews");
    assert!(scope.allow_any);
}

#[test]
fn a_host_keeps_all_its_routes_the_narrowest_exported_first() {
    let named = |name: &str, export: &str| {
        let route = istio::RouteDestination {
            destination: istio::Destination { host: "reviews".into(), ..Default::default() },
            ..Default::default()
        };
        let spec = istio::VirtualService {
            hosts: vec!["reviews".into()],
            export_to: vec![export.into()],
            http: vec![istio::HttpRoute { route: vec![route], ..Default::default() }],
            ..Default::default()
        };
        object(Kind::VirtualService, "shop", name, &[], Spec::VirtualService(Arc::new(spec)))
    };
    let mut engine = engine();
    engine.apply(shop());
    let world = engine.apply([named("a-public", "*"), named("b-some", "other"), named("c-private", ".")]).world;
    let names = |namespace: &str| -> Vec<String> {
        let scope = scope(&world, ProxyKind::Sidecar, namespace, &Labels::new());
        scope.egress[0].routes[&host("reviews")].iter().map(|routes| routes.name.to_string()).collect()
    };
    assert_eq!(names("shop"), ["c-private", "a-public", "reviews"]);
    assert_eq!(names("other"), ["b-some", "a-public", "reviews"]);
}

//! Judging an object costs as much as it is long, near enough: what is held against other parts of it is looked up, not compared with
//! each. Four times the object is looked at four times as often, and a little more for what is sorted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use istiod_lite::{
    api::{self, Object, mesh_config::MeshConfig},
    mesh::{
        engine::Engine,
        model::{Caller, Proxy, ProxyKind},
        validate,
    },
    patience::Patience,
    visits::Visits,
    xds::{
        classes::Classes,
        node::{Node, Proven},
        resource_type::ResourceType,
        view::Views,
    },
};
use serde_json::{Value, json};

mod products;

const SMALL: usize = 200;
const LARGE: usize = 4 * SMALL;

/// Objects of a kind that have `size` of something.
type Made = fn(size: usize) -> Vec<Value>;

const OBJECTS: [(&str, Made); 20] = [
    ("hosts of a VirtualService", |size| vec![virtual_service("a", json!({"hosts": hosts(size), "http": [to("x.example.com")]}))]),
    ("wildcards of a VirtualService", |size| {
        let wildcards: Vec<String> = hosts(size).into_iter().map(|host| format!("*.{host}")).collect();
        vec![virtual_service("a", json!({"hosts": wildcards, "http": [to("x.example.com")]}))]
    }),
    ("server names of a VirtualService", |size| {
        let tls = json!([{"match": [{"sniHosts": hosts(size)}], "route": to("x.example.com")["route"]}]);
        vec![virtual_service("a", json!({"hosts": hosts(size), "tls": tls}))]
    }),
    ("namespaces of a VirtualService", |size| {
        vec![virtual_service("a", json!({"hosts": ["a.example.com"], "exportTo": names(size), "http": [to("x.example.com")]}))]
    }),
    ("destinations that no service has", |size| {
        let routes: Vec<Value> = hosts(size).iter().map(|host| to(host)).collect();
        let entry = service_entry("w", json!({"hosts": wildcards(size), "resolution": "NONE", "ports": ports(1)}));
        vec![entry, virtual_service("a", json!({"hosts": ["a.example.com"], "http": routes}))]
    }),
    ("hosts that two VirtualServices have", |size| {
        let of = |name| virtual_service(name, json!({"hosts": hosts(size), "http": [to("x.example.com")]}));
        vec![of("a"), of("b")]
    }),
    ("headers of a delegate and its root", |size| {
        let headers: serde_json::Map<String, Value> = names(size).into_iter().map(|name| (name, json!({"exact": "a"}))).collect();
        let matches = json!([{"headers": headers}]);
        let root = json!({"hosts": ["a.example.com"], "http": [{"match": matches, "delegate": {"name": "leaf"}}]});
        let leaf = json!({"http": [{"match": matches, "route": to("x.example.com")["route"]}]});
        vec![virtual_service("leaf", leaf), virtual_service("a", root)]
    }),
    ("hosts of a VirtualService and its Gateway", |size| {
        let server = json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": wildcards(size)});
        let routes = json!({"hosts": hosts(size), "gateways": ["g"], "http": [to("x.example.com")]});
        vec![gateway(json!([server])), virtual_service("a", routes)]
    }),
    ("servers of a Gateway", |size| {
        let server = |(at, name)| json!({"port": {"number": at + 1, "name": name, "protocol": "HTTP"}, "hosts": ["*"]});
        vec![gateway(names(size).into_iter().enumerate().map(server).collect())]
    }),
    ("ports of a ServiceEntry and of its endpoint", |size| {
        let of_endpoint: serde_json::Map<String, Value> = names(size).into_iter().map(|name| (name, json!(80))).collect();
        let endpoint = json!({"address": "10.0.0.1", "ports": of_endpoint});
        vec![service_entry("a", json!({"hosts": ["a.example.com"], "resolution": "STATIC", "ports": ports(size), "endpoints": [endpoint]}))]
    }),
    ("ports and addresses of two ServiceEntries", |size| {
        let addresses: Vec<String> = (0..size).map(|at| format!("10.{}.{}.1", at / 250, at % 250)).collect();
        let spec = json!({"hosts": ["a.example.com"], "resolution": "STATIC", "ports": ports(size / 10), "addresses": addresses});
        vec![service_entry("a", spec.clone()), service_entry("b", spec)]
    }),
    ("subsets of two DestinationRules", |size| {
        let subsets: Vec<Value> = names(size).into_iter().map(|name| json!({"name": name, "labels": {"version": name}})).collect();
        let of = |name| object("DestinationRule", name, json!({"host": "a.example.com", "subsets": subsets}));
        vec![of("a"), of("b")]
    }),
    ("ports of a DestinationRule", |size| {
        let settings: Vec<Value> = (1..=size).map(|port| json!({"port": {"number": port}, "tls": {"mode": "DISABLE"}})).collect();
        vec![object("DestinationRule", "a", json!({"host": "a.example.com", "trafficPolicy": {"portLevelSettings": settings}}))]
    }),
    ("destinations of a VirtualService, and hosts of a ServiceEntry", |size| {
        let weighted = |host: &String| json!({"destination": {"host": host}, "weight": 1});
        let route: Vec<Value> = hosts(size).iter().map(weighted).collect();
        vec![virtual_service("a", json!({"hosts": hosts(size), "http": [{"route": route}]})), entry(size)]
    }),
    ("subsets that routes name, of a rule for some namespaces", |size| {
        let subsets: Vec<Value> = names(size).into_iter().map(|name| json!({"name": name, "labels": {"version": name}})).collect();
        let rule = json!({"host": "h0.example.com", "exportTo": [".", "other"], "subsets": subsets});
        let to_subset = |name: &String| json!({"match": [{"uri": {"exact": format!("/{name}")}}], "route": [{"destination": {"host": "h0.example.com", "subset": name}}]});
        let routes: Vec<Value> = names(size).iter().map(to_subset).collect();
        vec![entry(1), object("DestinationRule", "a", rule), virtual_service("a", json!({"hosts": ["a.example.com"], "http": routes}))]
    }),
    ("ports that routes name", |size| {
        let to_port = |at| json!({"match": [{"uri": {"exact": format!("/{at}")}}], "route": [{"destination": {"host": "a.example.com", "port": {"number": at + 1}}}]});
        let routes: Vec<Value> = (0..size).map(to_port).collect();
        let entry = service_entry("a", json!({"hosts": ["a.example.com"], "resolution": "NONE", "ports": ports(size)}));
        vec![entry, virtual_service("a", json!({"hosts": ["b.example.com"], "http": routes}))]
    }),
    ("times that a VirtualService names its Gateway", |size| {
        let server = json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": wildcards(size)});
        let routes = json!({"hosts": ["z.example.com"], "gateways": vec!["g"; size], "http": [to("x.example.com")]});
        vec![gateway(json!([server])), virtual_service("a", routes)]
    }),
    ("VirtualServices of one host for a namespace each", |size| {
        let of =
            |name: &String| virtual_service(name, json!({"hosts": ["a.example.com"], "exportTo": [name], "http": [to("x.example.com")]}));
        names(size).iter().map(of).collect()
    }),
    ("ServiceEntries of one host for a namespace each", |size| {
        let of = |name: &String| {
            service_entry(name, json!({"hosts": ["a.example.com"], "exportTo": [name], "resolution": "NONE", "ports": ports(1)}))
        };
        names(size).iter().map(of).collect()
    }),
    ("listeners of a Sidecar", |size| {
        let port = |number| json!({"number": number, "protocol": "HTTP", "name": "http"});
        let egress: Vec<Value> = (1..=size).map(|number| json!({"port": port(number), "hosts": ["*/*"]})).collect();
        let ingress: Vec<Value> = (1..=size).map(|number| json!({"port": port(number), "defaultEndpoint": "127.0.0.1:80"})).collect();
        vec![object("Sidecar", "a", json!({"egress": egress, "ingress": ingress}))]
    }),
];

/// What a connected sidecar is sent.
const SENT: [(&str, Made); 4] = [
    ("hosts of a VirtualService", |size| vec![routed(hosts(size))]),
    ("hosts of a ServiceEntry, and of a VirtualService", |size| vec![routed(hosts(size)), entry(size)]),
    ("wildcards of a VirtualService, and hosts of a ServiceEntry", |size| vec![entry(size), routed(wildcards(size))]),
    ("hosts of a Sidecar, of a VirtualService and of a ServiceEntry", |size| {
        let imports: Vec<String> = hosts(size).iter().map(|host| format!("*/{host}")).collect();
        let others = hosts(size).iter().map(|host| format!("not.{host}")).collect();
        vec![object("Sidecar", "a", json!({"egress": [{"hosts": imports}]})), routed(others), entry(size)]
    }),
];

fn routed(hosts: Vec<String>) -> Value {
    virtual_service("a", json!({"hosts": hosts, "http": [to("x.example.com")]}))
}

fn entry(size: usize) -> Value {
    service_entry("w", json!({"hosts": hosts(size), "resolution": "NONE", "ports": ports(1)}))
}

#[test]
fn four_times_the_object_is_looked_at_four_times_as_often() {
    let judged = OBJECTS.map(|(what, made)| (what, made, visits as fn(&[Value]) -> u64));
    let sent = SENT.map(|(what, made)| (what, made, visits_for_a_sidecar as fn(&[Value]) -> u64));
    for (what, made, visits) in judged.into_iter().chain(sent) {
        let (small, large) = (visits(&made(SMALL)), visits(&made(LARGE)));
        assert!(small >= SMALL as u64, "{what}: only {small} visits are counted");
        assert!(large <= 5 * small, "{what}: {small} visits become {large}");
    }
}

#[test]
fn whoever_has_no_patience_any_more_is_kept_waiting_by_no_object() {
    let looked_at = |made: Made, patience: &Patience| {
        let objects = made(LARGE);
        let (last, others) = objects.split_last().unwrap();
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let read =
            |object: &Value| api::parse(object, &"Kubernetes".into()).objects.into_iter().map(|object| (object.key.clone(), Some(object)));
        engine.apply(others.iter().flat_map(read));
        let last: Vec<_> = read(last).collect();
        let before = Visits::of_this_thread();
        patience.compute(|| validate::of(&engine.clone().apply(last.clone()).world, &last[0].0));
        let Visits { services, ports, routes, written, .. } = Visits::of_this_thread() - before;
        services + ports + routes + written
    };
    let over = Patience::default();
    over.end();
    let [patient, impatient] = [Patience::default(), over].map(|patience| OBJECTS.map(|(_, made)| looked_at(made, &patience)));
    let (patient, impatient): (u64, u64) = (patient.iter().sum(), impatient.iter().sum());
    assert!(impatient < patient / 10, "{patient} visits, and {impatient} when nobody waits any more");
}

/// Returns what is looked at when the last of these objects is judged as admission does, the others being there.
fn visits(objects: &[Value]) -> u64 {
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    of_last(objects, |object| {
        let key = object.key.clone();
        let world = engine.apply([(key.clone(), Some(object))]).world;
        validate::of(&world, &key);
        validate::check(&world);
    })
}

/// Returns what is looked at until a sidecar can be sent what the last of these objects changes, the others being there.
fn visits_for_a_sidecar(objects: &[Value]) -> u64 {
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let classes = Classes::default();
    let empty = engine.apply([]);
    classes.prepare(empty.world, &empty.touched).send();
    let proxy = Proxy { ips: vec![[10, 1, 0, 1].into()], ..Proxy::new(ProxyKind::Sidecar, "client.shop") };
    let _attached = classes.attach(&Proven::new(Arc::new(Node::from(Arc::new(proxy))), Caller::Anonymous).unwrap());
    of_last(objects, |object| {
        let applied = engine.apply([(object.key.clone(), Some(object))]);
        classes.prepare(applied.world, &applied.touched).send();
    })
}

/// Returns how often something is visited while the last of the objects is taken in.
fn of_last(objects: &[Value], mut take: impl FnMut(Arc<Object>)) -> u64 {
    let mut read = |object: &Value| {
        let parsed = api::parse(object, &"Kubernetes".into());
        assert_eq!((parsed.refused.len(), parsed.objects.len()), (0, 1), "{:?}", parsed.diagnostics);
        parsed.objects.into_iter().for_each(&mut take);
    };
    let (last, others) = objects.split_last().unwrap();
    others.iter().for_each(&mut read);
    let before = Visits::of_this_thread();
    read(last);
    let Visits { objects, services, ports, routes, proxies, written, .. } = Visits::of_this_thread() - before;
    objects + services + ports + routes + proxies + written
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": "shop"});
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

fn virtual_service(name: &str, spec: Value) -> Value {
    object("VirtualService", name, spec)
}

fn service_entry(name: &str, spec: Value) -> Value {
    object("ServiceEntry", name, spec)
}

fn gateway(servers: Value) -> Value {
    object("Gateway", "g", json!({"selector": {"app": "edge"}, "servers": servers}))
}

fn to(host: &str) -> Value {
    json!({"route": [{"destination": {"host": host}}]})
}

fn names(size: usize) -> Vec<String> {
    (0..size).map(|at| format!("n{at}")).collect()
}

fn hosts(size: usize) -> Vec<String> {
    (0..size).map(|at| format!("h{at}.example.com")).collect()
}

fn wildcards(size: usize) -> Vec<String> {
    (0..size).map(|at| format!("*.w{at}.example.org")).collect()
}

fn ports(size: usize) -> Vec<Value> {
    (0..size).map(|at| json!({"number": at + 1, "name": format!("n{at}"), "protocol": "HTTP"})).collect()
}

//! What one list of an object is for each entry of another, or of another object's: it is shared, or it has an end that is told.
//! Four times both lists, and what is looked at and sent is four times as much and a little more.

use super::*;

/// What proxies are sent for `size` of one thing and as many of another.
const PRODUCTS: [(&str, ProxyKind, Made); 14] = [
    ("routes of a delegate, and VirtualServices that name it", ProxyKind::Sidecar, |size| {
        let of = |(at, host): (usize, &String)| {
            let mut root = virtual_service("r", json!({"hosts": [host], "http": [{"delegate": {"name": "leaf"}}]}));
            root["metadata"]["name"] = json!(format!("r{at}"));
            root
        };
        let mut leaf = routes(&[], &[], size);
        leaf["metadata"]["name"] = json!("leaf");
        leaf["spec"] = json!({"http": leaf["spec"]["http"]});
        let mut all: Vec<Value> = hosts(size).iter().enumerate().map(of).collect();
        all.extend([leaf, entry(size)]);
        all
    }),
    ("hosts and routes of a VirtualService", ProxyKind::Sidecar, |size| vec![entry(size), routes(&hosts(size), &["mesh"], size)]),
    ("hosts of two VirtualServices at a gateway, and their routes", ProxyKind::Gateway, |size| {
        let mut other = routes(&hosts(size), &["g"], size);
        other["metadata"]["name"] = json!("b");
        vec![gateway(json!([server(80, "HTTP", &["*.example.com"])])), routes(&hosts(size), &["g"], size), other]
    }),
    ("routes, and ports of their service", ProxyKind::Sidecar, |size| {
        let ports = ports(size * 2);
        let entry = service_entry("a", json!({"hosts": hosts(1), "resolution": "NONE", "ports": ports}));
        vec![entry, routes(&hosts(1), &["mesh"], size * 2)]
    }),
    ("routes of a wildcard, and services with a port each", ProxyKind::Sidecar, |size| {
        let of = |(at, host): (usize, &String)| {
            service_entry(&format!("e{at}"), json!({"hosts": [host], "resolution": "NONE", "ports": [ports(size * 2)[at]]}))
        };
        let mut all: Vec<Value> = hosts(size * 2).iter().enumerate().map(of).collect();
        all.push(routes(&["*.example.com".to_owned()], &["mesh"], size * 2));
        all
    }),
    ("routes, and servers of a gateway with a certificate each", ProxyKind::Gateway, |size| {
        let servers: Vec<Value> = hosts(size * 2).iter().map(|host| server(443, "HTTPS", &[host])).collect();
        vec![gateway(json!(servers)), routes(&["*.example.com".to_owned()], &["g"], size * 2)]
    }),
    ("servers of a gateway, and hosts of a VirtualService", ProxyKind::Gateway, |size| {
        let servers: Vec<Value> = hosts(size).iter().map(|host| server(80, "HTTP", &[&format!("*.{host}")])).collect();
        let hosts: Vec<String> = hosts(size).iter().map(|host| format!("a.{host}")).collect();
        vec![gateway(json!(servers)), routes(&hosts, &["g"], 1)]
    }),
    ("servers of a gateway for the same host, and hosts of a VirtualService", ProxyKind::Gateway, |size| {
        let servers: Vec<Value> = hosts(size).iter().map(|host| server(80, "HTTP", &["*.example.com", host])).collect();
        vec![gateway(json!(servers)), routes(&hosts(size), &["g"], 1)]
    }),
    ("servers of a gateway that pass TLS through, and TLS routes", ProxyKind::Gateway, |size| {
        let servers: Vec<Value> = hosts(size).iter().map(|host| server(443, "TLS", &[host])).collect();
        vec![gateway(json!(servers)), tls_routes(size, &["g"])]
    }),
    ("TLS routes, and hosts of a ServiceEntry", ProxyKind::Sidecar, |size| {
        let tls = json!([{"number": 443, "name": "tls", "protocol": "TLS"}]);
        vec![service_entry("a", json!({"hosts": hosts(size), "resolution": "NONE", "ports": tls})), tls_routes(size, &["mesh"])]
    }),
    ("TCP routes by network, and hosts of a ServiceEntry", ProxyKind::Sidecar, |size| {
        let tcp = json!([{"number": 9000, "name": "tcp", "protocol": "TCP"}]);
        let by_network = |at| json!({"match": [{"destinationSubnets": [address(at)]}], "route": to("h0.example.com")["route"]});
        let rules: Vec<Value> = (0..size).map(by_network).collect();
        let entry = service_entry("a", json!({"hosts": hosts(size), "resolution": "NONE", "ports": tcp}));
        vec![entry, virtual_service("a", json!({"hosts": hosts(size), "tcp": rules}))]
    }),
    ("ServiceEntries of one host that have an address each", ProxyKind::Sidecar, |size| {
        let ports = json!([{"number": 9000, "name": "tcp", "protocol": "TCP"}]);
        let of = |at: usize| {
            let spec = json!({"hosts": ["a.example.com"], "addresses": [address(at)], "resolution": "NONE", "ports": ports});
            service_entry(&format!("e{at}"), spec)
        };
        (0..size).map(of).collect()
    }),
    ("listeners of a Sidecar, and services", ProxyKind::Sidecar, |size| vec![entry(size), listeners(size)]),
    ("subsets of rules for a wildcard, and services", ProxyKind::Sidecar, |size| {
        let of = |name: &String| object("DestinationRule", name, json!({"host": "*.example.com", "subsets": [{"name": name}]}));
        let mut all: Vec<Value> = names(size).iter().map(of).collect();
        all.push(entry(size));
        all
    }),
];

fn listeners(size: usize) -> Value {
    let of = |at| json!({"port": {"number": at + 1, "protocol": "HTTP", "name": "http"}, "hosts": ["*/*"]});
    object("Sidecar", "s", json!({"egress": (0..size).map(of).collect::<Vec<_>>()}))
}

fn routes(hosts: &[String], gateways: &[&str], size: usize) -> Value {
    let of = |at| json!({"match": [{"uri": {"exact": format!("/{at}")}}], "route": to("h0.example.com")["route"]});
    virtual_service("a", json!({"hosts": hosts, "gateways": gateways, "http": (0..size).map(of).collect::<Vec<_>>()}))
}

fn tls_routes(size: usize, gateways: &[&str]) -> Value {
    let of = |host: &String| json!({"match": [{"sniHosts": [host]}], "route": to("h0.example.com")["route"]});
    virtual_service("a", json!({"hosts": hosts(size), "gateways": gateways, "tls": hosts(size).iter().map(of).collect::<Vec<_>>()}))
}

fn server(port: u16, protocol: &str, hosts: &[&str]) -> Value {
    let name = hosts.concat().replace(['*', '.'], "");
    let tls = match protocol {
        "TLS" => json!({"mode": "PASSTHROUGH"}),
        "HTTPS" => json!({"mode": "SIMPLE", "credentialName": name}),
        _ => Value::Null,
    };
    json!({"port": {"number": port, "name": name, "protocol": protocol}, "hosts": hosts, "tls": tls})
}

fn address(at: usize) -> String {
    format!("10.0.{}.{}", at / 250, at % 250)
}

#[test]
fn what_two_lists_multiply_is_shared_or_ends() {
    for (what, kind, made) in PRODUCTS {
        let (small, large) = (cost(&made(100), kind), cost(&made(400), kind));
        assert!(small >= 200, "{what}: only {small} is counted");
        assert!(large <= 6 * small, "{what}: {small} becomes {large}");
    }
}

/// Returns what is looked at, and the bytes that a proxy is sent, for these objects.
fn cost(objects: &[Value], kind: ProxyKind) -> u64 {
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let classes = Classes::default();
    let labels = Arc::new([("app".into(), "edge".into())].into());
    let proxy = Proxy { ips: vec![[10, 1, 0, 1].into()], labels, ..Proxy::new(kind, "client.shop") };
    let attached = classes.attach(&Proven::new(Arc::new(Node::from(Arc::new(proxy))), Caller::Anonymous).unwrap());
    let parsed: Vec<_> = objects.iter().map(|object| api::parse(object, &"Kubernetes".into())).collect();
    let refused: Vec<_> = parsed.iter().filter(|parsed| parsed.objects.is_empty()).flat_map(|parsed| &parsed.diagnostics).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let before = Visits::of_this_thread();
    let objects = parsed.into_iter().flat_map(|parsed| parsed.objects).map(|object| (object.key.clone(), Some(object)));
    let applied = engine.apply(objects.collect::<Vec<_>>());
    classes.prepare(applied.world, &applied.touched).send();
    let Visits { objects, services, ports, routes, proxies, written, .. } = Visits::of_this_thread() - before;
    let view = attached.borrow().clone();
    let bytes: usize = ResourceType::ALL.iter().flat_map(|kind| view.iter(*kind)).map(|resource| resource.body.len()).sum();
    objects + services + ports + routes + proxies + written + bytes as u64 / 100
}

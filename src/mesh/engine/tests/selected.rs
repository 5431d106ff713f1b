//! Endpoints that a selector finds, without an EndpointSlice: pods of ServiceEntries, and WorkloadEntries of both kinds
//! of services.

use super::*;
use crate::mesh::model::{Health, Resolution};

#[test]
fn a_service_entry_selects_pods_and_workload_entries() {
    let port = istio::Port { number: 8116, name: "http".into(), protocol: "HTTP".into(), target_port: 8080 };
    let selecting = istio::ServiceEntry {
        hosts: vec!["sel.shop.local".into()],
        ports: vec![port],
        resolution: istio::ServiceEntryResolution::Static,
        mesh_internal: true,
        workload_selector: Some(labels_of(&[("app", "mixed")])),
        ..Default::default()
    };
    let vm = |spec| object(Kind::WorkloadEntry, "shop", "vm-1", &[], Spec::WorkloadEntry(Arc::new(spec)));
    let vm_spec = istio::WorkloadEntry { address: "10.3.0.1".into(), ..Default::default() };
    let mut engine = engine();
    engine.apply([object(Kind::ServiceEntry, "shop", "sel", &[], Spec::ServiceEntry(Arc::new(selecting)))]);
    let entry = istio::WorkloadEntry { weight: 5, ..vm_spec.clone() };
    engine.apply([vm(entry)]);
    let world = engine
        .apply([
            pod("shop", "mixed-1", "10.1.0.31", &[("app", "mixed"), ("security.istio.io/tlsMode", "istio")]),
            vm(istio::WorkloadEntry {
                labels: labels_of(&[("app", "mixed")]),
                service_account: "vm".into(),
                ports: vec![("http".into(), 9999)],
                weight: 5,
                ..vm_spec
            }),
        ])
        .world;
    let key = ServiceKey { hostname: Hostname::new("sel.shop.local"), namespace: "shop".into() };
    let found: Vec<_> =
        world.endpoints[&key].port(8116).iter().map(|e| (e.port, e.backend.weight, e.mtls, e.backend.workload.as_str())).collect();
    assert_eq!(found, [(8080, 1, true, "mixed-1"), (9999, 5, true, "vm-1")]);
    let accounts: Vec<_> = world.services[&key].service_accounts.iter().map(|id| id.service_account.as_str()).collect();
    assert_eq!(accounts, ["runner", "vm"]);
    assert_eq!(world.services[&key].resolution, Resolution::ClientSideLb);
}

/// Returns a ServiceEntry `sel.shop.local` that selects.
fn selecting(labels: &[(&str, &str)]) -> Change {
    let spec = istio::ServiceEntry {
        hosts: vec!["sel.shop.local".into()],
        ports: vec![istio::Port { number: 80, name: "http".into(), protocol: "HTTP".into(), target_port: 8080 }],
        resolution: istio::ServiceEntryResolution::Static,
        mesh_internal: true,
        workload_selector: Some(labels_of(labels)),
        ..Default::default()
    };
    object(Kind::ServiceEntry, "shop", "sel", &[], Spec::ServiceEntry(Arc::new(spec)))
}

fn with_pod(change: Change, edit: impl FnOnce(&mut Pod)) -> Change {
    let (key, object) = change;
    let mut object = Object::clone(&object.unwrap());
    let Spec::Pod(pod) = &mut object.spec else { panic!("a pod") };
    edit(Arc::make_mut(pod));
    (key, Some(Arc::new(object)))
}

fn vm(labels: &[(&str, &str)], ports: &[(&str, u16)]) -> Change {
    let ports = ports.iter().map(|(name, number)| ((*name).into(), *number)).collect();
    let (address, locality) = ("10.3.0.1".into(), "north/north-1".into());
    let labels = labels_of(labels);
    let spec = istio::WorkloadEntry { address, ports, labels, locality, service_account: "vm".into(), ..Default::default() };
    object(Kind::WorkloadEntry, "shop", "vm-1", &[], Spec::WorkloadEntry(Arc::new(spec)))
}

/// Returns `address:port` of a service's endpoints that are ready, or of which that is not known.
fn addresses(world: &World, key: &ServiceKey, port: u16) -> Vec<String> {
    let endpoints = world.endpoints.get(key).map(|set| set.port(port)).unwrap_or_default();
    let ready = endpoints.iter().filter(|endpoint| endpoint.backend.health != Health::Unready);
    let at = |endpoint: &Endpoint| match &endpoint.address {
        EndpointAddress::Ip(ip) => format!("{ip}:{}", endpoint.port),
        other => format!("{other:?}"),
    };
    ready.map(at).collect()
}

fn selected_key() -> ServiceKey {
    ServiceKey { hostname: Hostname::new("sel.shop.local"), namespace: "shop".into() }
}

#[test]
fn a_pod_that_no_slice_names_counts_while_it_is_ready_and_stays() {
    let store = |at: u8| pod("shop", &format!("store-{at}"), &format!("10.1.0.{at}"), &[("app", "store")]);
    let mut engine = engine();
    let starting = with_pod(store(2), |pod| pod.ready = false);
    let leaving = with_pod(store(3), |pod| pod.terminating = true);
    let world = engine.apply([selecting(&[("app", "store")]), store(1), starting, leaving]).world;
    assert_eq!(addresses(&world, &selected_key(), 80), ["10.1.0.1:8080"]);
    assert_eq!(world.endpoints[&selected_key()].port(80).len(), 2, "one that is not ready is known, one that ends is not");
    let applied = engine.apply([store(2)]);
    assert_eq!(addresses(&applied.world, &selected_key(), 80), ["10.1.0.1:8080", "10.1.0.2:8080"]);
}

#[test]
fn the_readiness_of_a_pod_touches_the_services_that_select_it_alone() {
    let mut engine = engine();
    engine.apply(shop());
    engine.apply([selecting(&[("app", "store")]), pod("shop", "store-1", "10.1.0.9", &[("app", "store")])]);
    let applied = engine.apply([with_pod(pod("shop", "store-1", "10.1.0.9", &[("app", "store")]), |pod| pod.ready = false)]);
    assert_eq!(applied.touched.endpoints, [Hostname::new("sel.shop.local")].into());
    assert!(applied.touched.namespaces.is_empty() && applied.touched.routes.is_empty(), "{:?}", applied.touched);
    let unselected = engine.apply([with_pod(pod("shop", "reviews-2", "10.1.0.2", &[("app", "reviews")]), |pod| pod.ready = false)]);
    assert!(unselected.touched.endpoints.is_empty(), "{:?}", unselected.touched);
}

#[test]
fn selectors_name_where_a_workload_runs() {
    let mut engine = engine();
    engine.apply([node("n1", "west"), pod("shop", "store-1", "10.1.0.1", &[("app", "store")]), vm(&[("app", "store")], &[])]);
    for (selector, found) in [
        (("topology.kubernetes.io/region", "west"), &["10.1.0.1:8080"][..]),
        (("topology.kubernetes.io/zone", "north-1"), &["10.3.0.1:8080"]),
        (("topology.istio.io/cluster", "Kubernetes"), &["10.1.0.1:8080", "10.3.0.1:8080"]),
        (("kubernetes.io/hostname", "n1"), &["10.1.0.1:8080"]),
        (("topology.kubernetes.io/region", "east"), &[]),
    ] {
        let world = engine.apply([selecting(&[("app", "store"), selector])]).world;
        assert_eq!(addresses(&world, &selected_key(), 80), found, "{selector:?}");
    }
    // A node that says where it is later moves its pods.
    engine.apply([selecting(&[("topology.kubernetes.io/region", "east")])]);
    let world = engine.apply([node("n1", "east")]).world;
    assert_eq!(addresses(&world, &selected_key(), 80), ["10.1.0.1:8080"]);
}

#[test]
fn a_kubernetes_service_selects_workload_entries() {
    let mut engine = engine();
    engine.apply(shop());
    let reviews = key("reviews");
    let of = |world: &World| addresses(world, &reviews, 9080);
    let applied = engine.apply([vm(&[("app", "reviews")], &[("http", 9999)])]);
    assert_eq!(of(&applied.world), ["10.1.0.1:8080", "10.3.0.1:9999"]);
    let (first, last) = (&applied.world.endpoints[&reviews].port(9080)[0], &applied.world.endpoints[&reviews].port(9080)[1]);
    assert!(first.mtls && last.mtls, "an account without a label says that there is a proxy");
    let accounts: Vec<_> = applied.world.services[&reviews].service_accounts.iter().map(|id| id.service_account.as_str()).collect();
    assert_eq!(accounts, ["runner", "vm"]);
    // Without a port of that name it answers at the target port; another Service is none of its own.
    assert_eq!(of(&engine.apply([vm(&[("app", "reviews")], &[])]).world), ["10.1.0.1:8080", "10.3.0.1:9080"]);
    let moved = engine.apply([service("shop", "ratings", 9090), vm(&[("app", "ratings")], &[])]).world;
    assert_eq!((of(&moved), addresses(&moved, &key("ratings"), 9090)), (vec!["10.1.0.1:8080".into()], vec!["10.3.0.1:9090".into()]));
    assert_eq!(addresses(&engine.apply([gone(vm(&[], &[]))]).world, &key("ratings"), 9090), <[&str; 0]>::default());
}

#[test]
fn a_named_target_port_is_one_that_the_workload_entry_has() {
    let (service_key, object) = service("shop", "reviews", 80);
    let mut object = Object::clone(&object.unwrap());
    let Spec::Service(spec) = &mut object.spec else { panic!("a Service") };
    Arc::make_mut(spec).ports[0].target_port = Some(crate::api::kubernetes::PortRef::Name("web".into()));
    let mut engine = engine();
    engine.apply([(service_key, Some(Arc::new(object)))]);
    let reviews = key("reviews");
    assert_eq!(addresses(&engine.apply([vm(&[("app", "reviews")], &[("http", 1)])]).world, &reviews, 80), <[&str; 0]>::default());
    assert_eq!(addresses(&engine.apply([vm(&[("app", "reviews")], &[("web", 2)])]).world, &reviews, 80), ["10.3.0.1:2"]);
}

#[test]
fn a_slice_written_by_hand_finds_its_pods_by_address() {
    let by_hand = |ip: &str| {
        let endpoints = vec![SliceEndpoint { addresses: vec![ip.into()], ready: true, ..Default::default() }];
        let spec = EndpointSlice { service: "reviews".into(), address_type: "IPv4".into(), ports: vec![("http".into(), 8080)], endpoints };
        object(Kind::EndpointSlice, "shop", "reviews-hand", &[], Spec::EndpointSlice(Arc::new(spec)))
    };
    let labels = [("app", "reviews"), ("security.istio.io/tlsMode", "istio")];
    let of = |world: &World| -> Vec<(String, bool)> {
        world.endpoints[&key("reviews")].port(9080).iter().map(|end| (end.backend.workload.to_string(), end.mtls)).collect()
    };
    let mut engine = engine();
    let world = engine.apply([service("shop", "reviews", 9080), by_hand("10.1.0.7")]).world;
    assert_eq!(of(&world), [(String::new(), false)]);
    // A pod of another namespace may have that address, on a host's network.
    let world = engine.apply([pod("other", "guest", "10.1.0.7", &labels)]).world;
    assert_eq!(of(&world), [(String::new(), false)]);
    let world = engine.apply([pod("shop", "reviews-7", "10.1.0.7", &labels)]).world;
    assert_eq!(of(&world), [("reviews-7".to_owned(), true)]);
    let world = engine.apply([gone(pod("shop", "reviews-7", "10.1.0.7", &labels))]).world;
    assert_eq!(of(&world), [(String::new(), false)]);
}

#[test]
fn a_pod_of_a_slice_written_by_hand_concerns_its_service_alone() {
    let by_hand = |service: &str, ip: &str| {
        let endpoints = vec![SliceEndpoint { addresses: vec![ip.into()], ready: true, ..Default::default() }];
        let spec = EndpointSlice { service: service.into(), address_type: "IPv4".into(), ports: vec![("http".into(), 8080)], endpoints };
        object(Kind::EndpointSlice, "shop", service, &[], Spec::EndpointSlice(Arc::new(spec)))
    };
    let mut engine = engine();
    let services = (0..20).flat_map(|n| {
        let name = format!("s{n}");
        [
            service("shop", &name, 9080),
            by_hand(&name, &format!("10.1.0.{n}")),
            pod("shop", &format!("{name}-x"), &format!("10.2.0.{n}"), &[]),
        ]
    });
    engine.apply(services.collect::<Vec<_>>());
    // The pod, the endpoints of the service at its address, and that service.
    let labels = [("app", "s7")];
    assert_eq!(engine.apply([pod("shop", "s7-a", "10.1.0.7", &labels)]).recomputed, 3);
    assert_eq!(engine.apply([pod("shop", "elsewhere", "10.3.0.7", &labels)]).recomputed, 1, "no slice names that address");
    // Of pods on a node's network the last by name counts, and the other when it is gone.
    let behind = |engine: &Engine| engine.world().endpoints[&key("s7")].port(9080)[0].backend.workload.to_string();
    engine.apply([pod("shop", "s7-b", "10.1.0.7", &labels)]);
    assert_eq!(behind(&engine), "s7-b");
    engine.apply([gone(pod("shop", "s7-b", "10.1.0.7", &labels))]);
    assert_eq!(behind(&engine), "s7-a");
}

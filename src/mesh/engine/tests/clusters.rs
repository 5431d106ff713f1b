//! Two clusters of one mesh: local objects of both are kept, and merged where they mean one thing; configuration is one.

use super::*;

fn with_address(service: Change, address: &str) -> Change {
    let (key, object) = service;
    let mut object = Object::clone(&object.unwrap());
    if let Spec::Service(spec) = &mut object.spec {
        Arc::make_mut(spec).cluster_ips = vec![address.parse().unwrap()];
    }
    (key, Some(Arc::new(object)))
}

fn here() -> Vec<Change> {
    let labels = [("app", "reviews"), ("version", "here")];
    vec![
        node("n1", "west"),
        with_address(service("shop", "reviews", 9080), "10.96.0.1"),
        pod("shop", "reviews-1", "10.1.0.1", &labels),
        slice("shop", "reviews", &[("reviews-1", "10.1.0.1")]),
    ]
}

/// Returns objects of the same names, with other content.
fn there() -> Vec<Change> {
    let labels = [("app", "reviews"), ("version", "there")];
    let all = [
        node("n1", "east"),
        with_address(service("shop", "reviews", 9080), "10.97.0.1"),
        pod("shop", "reviews-1", "10.2.0.1", &labels),
        slice("shop", "reviews", &[("reviews-1", "10.2.0.1")]),
    ];
    all.into_iter().map(elsewhere).collect()
}

/// Returns `address cluster version region` of the service's endpoints.
fn endpoints(world: &World) -> Vec<String> {
    let all = world.endpoints.get(&key("reviews")).map(|set| set.port(9080)).unwrap_or_default();
    let line = |endpoint: &Endpoint| {
        let EndpointAddress::Ip(ip) = endpoint.address else { panic!("{endpoint:?}") };
        let Backend { cluster, labels, locality, .. } = &*endpoint.backend;
        format!("{ip} {cluster} {} {}", labels["version"], locality.region)
    };
    all.iter().map(line).collect()
}

const HERE: &str = "10.1.0.1 Kubernetes here west";
const THERE: &str = "10.2.0.1 there there east";

#[test]
fn a_service_has_the_endpoints_of_both_and_the_address_of_each() {
    let mut engine = engine();
    let world = engine.apply(here().into_iter().chain(there())).world;
    assert_eq!(endpoints(&world), [HERE, THERE]);
    let service = &world.services[&key("reviews")];
    assert_eq!(service.origin.object.cluster, "Kubernetes");
    assert_eq!(service.addresses, ["10.96.0.1"]);
    assert_eq!(service.addresses_elsewhere, [("there".into(), vec!["10.97.0.1".into()])]);
}

#[test]
fn workloads_of_one_name_are_two() {
    let world = engine().apply(here().into_iter().chain(there())).world;
    let version = |cluster: &str| world.workload(cluster, "shop", "reviews-1").map(|workload| workload.labels["version"].as_str());
    assert_eq!((version("Kubernetes"), version("there")), (Some("here"), Some("there")));
    // Who comes from a cluster that nobody knows is taken for a workload of the first.
    assert_eq!((version("unknown"), world.workload("there", "shop", "reviews-2")), (Some("here"), None));
    assert_eq!(world.workloads.len(), 2);
}

#[test]
fn what_goes_in_one_cluster_stays_in_the_other() {
    for (going, stays) in [(here(), THERE), (there(), HERE)] {
        for alone in &going {
            let mut engine = engine();
            engine.apply(here().into_iter().chain(there()));
            let world = engine.apply([gone(alone.clone())]).world;
            let kind = alone.0.kind;
            assert!(endpoints(&world).iter().any(|line| line == stays), "{kind} {:?}", endpoints(&world));
        }
        let mut engine = engine();
        engine.apply(here().into_iter().chain(there()));
        let world = engine.apply(going.into_iter().map(gone)).world;
        assert_eq!(endpoints(&world), [stays]);
        assert!(world.services[&key("reviews")].addresses_elsewhere.is_empty());
    }
}

#[test]
fn a_node_moves_the_pods_of_its_cluster_alone() {
    let mut engine = engine();
    engine.apply(here().into_iter().chain(there()));
    let applied = engine.apply([elsewhere(node("n1", "south"))]);
    assert_eq!(endpoints(&applied.world), [HERE, "10.2.0.1 there there south"]);
    assert_eq!(applied.touched.addresses, FxHashSet::from_iter(["10.2.0.1".parse().unwrap()]));
}

#[test]
fn configuration_of_one_name_is_one_and_the_first_clusters_counts() {
    let mode = |world: &World| mtls::service_mtls(world, "shop");
    let [here, there] =
        [peer_mode("shop", "default", PeerMtlsMode::Strict), elsewhere(peer_mode("shop", "default", PeerMtlsMode::Disable))];
    for order in [[here.clone(), there.clone()], [there.clone(), here.clone()]] {
        let mut engine = engine();
        for change in order {
            engine.apply([change]);
        }
        assert_eq!(mode(engine.world()), MtlsMode::Strict);
        assert_eq!(mode(&engine.apply([gone(here.clone())]).world), MtlsMode::Disable);
        assert_eq!(mode(&engine.apply([gone(there.clone())]).world), MtlsMode::Permissive);
    }
}

#[test]
fn an_external_name_points_where_the_first_cluster_says() {
    let here = || external_name("shop", "old", "reviews.shop.svc.cluster.local");
    let there = || elsewhere(external_name("shop", "old", "ratings.shop.svc.cluster.local"));
    let mut engine = engine();
    engine.apply([service("shop", "reviews", 80), service("shop", "ratings", 80), there(), here()]);
    let aliases = |world: &World| ["reviews", "ratings"].map(|name| world.services[&key(name)].aliases.len());
    assert_eq!(aliases(engine.world()), [1, 0]);
    assert_eq!(aliases(&engine.apply([gone(here())]).world), [0, 1]);
    assert_eq!(aliases(&engine.apply([here()]).world), [1, 0]);
}

#[test]
fn a_workload_entry_moves_with_the_cluster_that_counts() {
    let entry = |address: &str| {
        let spec = istio::WorkloadEntry { address: address.into(), ..Default::default() };
        object(Kind::WorkloadEntry, "shop", "vm", &[], Spec::WorkloadEntry(Arc::new(spec)))
    };
    let mut engine = engine();
    let world = engine.apply([entry("10.3.0.1"), elsewhere(entry("10.4.0.1"))]).world;
    let clusters = |world: &World| world.workloads.values().map(|workload| workload.cluster.to_string()).collect::<Vec<_>>();
    assert_eq!(clusters(&world), ["Kubernetes"]);
    assert_eq!(clusters(&engine.apply([gone(entry(""))]).world), ["there"]);
    assert_eq!(clusters(&engine.apply([gone(elsewhere(entry("")))]).world), Vec::<String>::new());
}

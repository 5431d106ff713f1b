//! Copies of the engine: they show what a change would do, and cost nothing that depends on the mesh.

use super::*;

fn big(services: usize) -> Vec<Change> {
    let one = |at: usize| {
        let (name, ip) = (format!("s{at}"), format!("10.2.{}.{}", at / 250, at % 250));
        let pod_name = format!("{name}-1");
        [service("shop", &name, 80), pod("shop", &pod_name, &ip, &[("app", &name)]), slice("shop", &name, &[(&pod_name, &ip)])]
    };
    shop().into_iter().chain((0..services).flat_map(one)).collect()
}

#[test]
fn what_is_applied_to_a_copy_does_not_show_in_its_source() {
    let mut engine = engine();
    engine.apply(big(50));
    let (before, source) = (Arc::clone(engine.world()), engine.clone());
    let mut copy = engine.clone();
    let all: Vec<Change> = big(50).into_iter().map(gone).collect();
    assert!(copy.apply(all).world.services.is_empty());
    assert!(Arc::ptr_eq(engine.world(), &before));
    // The source goes on as if there had been no copy.
    let fresh = {
        let mut fresh = self::engine();
        fresh.apply(big(50));
        fresh.apply([slice("shop", "reviews", &[("reviews-2", "10.1.0.2")])]).world
    };
    for mut source in [engine, source] {
        let applied = source.apply([slice("shop", "reviews", &[("reviews-2", "10.1.0.2")])]);
        assert_eq!(*applied.world, *fresh);
        assert_eq!(applied.recomputed, 2);
    }
}

#[test]
fn a_copy_shares_all_tables_however_many_objects_there_are() {
    for services in [0, 500] {
        let mut engine = engine();
        engine.apply(big(services));
        assert!(engine.clone().shares_all_with(&engine));
        let mut changed = engine.clone();
        changed.apply([service("other", "new", 80)]);
        assert!(!changed.shares_all_with(&engine));
    }
}

#[test]
fn a_copy_shows_what_delegates_services_and_workloads_would_do() {
    let mut engine = engine();
    engine.apply(shop());
    let preview = |change: Change| engine.clone().apply([change]).world;

    let delegate = Some(istio::Delegate { name: "leaf".into(), namespace: "shop".into() });
    let root = istio::VirtualService {
        hosts: vec!["front".into()],
        http: vec![istio::HttpRoute { delegate, ..Default::default() }],
        ..Default::default()
    };
    let root = object(Kind::VirtualService, "shop", "root", &[], Spec::VirtualService(Arc::new(root)));
    let leaf = weights("shop", "leaf", "reviews", &[("v1", 1)]);
    let (leaf_key, leaf) = (leaf.0, leaf.1.unwrap());
    let mut leaf = Object::clone(&leaf);
    if let Spec::VirtualService(spec) = &mut leaf.spec {
        Arc::make_mut(spec).hosts.clear();
    }
    let mut with_leaf = engine.clone();
    with_leaf.apply([(leaf_key, Some(Arc::new(leaf)))]);
    let routes = |world: &World| world.routes[&("shop".into(), "root".into())].http.len();
    assert_eq!(routes(&with_leaf.clone().apply([root.clone()]).world), 1);
    assert_eq!(routes(&preview(root)), 0);

    assert!(preview(service("shop", "new", 80)).services.contains_key(&key("new")));
    let gone_pod = preview(gone(pod("shop", "reviews-1", "10.1.0.1", &[])));
    assert!(!gone_pod.endpoints.contains_key(&key("reviews")));
    let port = istio::Port { number: 80, name: "http".into(), protocol: "HTTP".into(), target_port: 0 };
    let entry = istio::ServiceEntry { hosts: vec!["ext.example.com".into()], ports: vec![port], ..Default::default() };
    let world = preview(object(Kind::ServiceEntry, "shop", "ext", &[], Spec::ServiceEntry(Arc::new(entry))));
    assert_eq!(world.services_named(&Hostname::new("ext.example.com")).count(), 1);
}

//! Only some namespaces are read: by `discoverySelectors` of one or two ConfigMaps, by `--watch-namespaces`.

use serde_json::json;

use super::{
    Received, Settings,
    server::{Server, service},
    settings,
};
use crate::api::{Object, Spec, istio::OutboundTrafficPolicy};

fn mesh_config(mesh: &str) -> serde_json::Value {
    json!({"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": mesh}})
}

fn service_in(namespace: &str, name: &str) -> serde_json::Value {
    let mut object = service(name, "1");
    object["metadata"]["namespace"] = namespace.into();
    object
}

fn namespace(name: &str, mesh: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "labels": {"mesh": mesh}}})
}

#[tokio::test]
async fn only_selected_namespaces_are_read() {
    let server = Server::new();
    let mesh = "discoverySelectors: [{matchLabels: {mesh: 'on'}}]";
    server.put("configmaps", mesh_config(mesh));
    server.put("services", service("a", "1"));
    server.put("namespaces", namespace("shop", "off"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    assert!(!received.objects.contains_key("Service/shop/a"), "{:?}", received.objects);
    server.put("namespaces", namespace("shop", "on"));
    received.until("begins to match", |received| received.has("Service/shop/a", "1")).await;
    server.put("services", service("b", "1"));
    received.until("is followed", |received| received.has("Service/shop/b", "1")).await;
    server.put("namespaces", namespace("shop", "off"));
    received.until("ceases to match", |received| received.deleted.len() == 2).await;
}

#[tokio::test]
async fn selectors_that_are_edited_take_effect() {
    let server = Server::new();
    server.put("services", service_in("shop", "a"));
    server.put("services", service_in("bank", "b"));
    server.put("services", service_in("istio-system", "own"));
    server.put("namespaces", namespace("shop", "on"));
    server.put("namespaces", namespace("bank", "off"));
    server.put("configmaps", mesh_config(""));
    let mut received = Received::by(&server);
    received
        .until("all are read", |received| received.synced && received.has("Service/shop/a", "1") && received.has("Service/bank/b", "1"))
        .await;
    server.put("configmaps", mesh_config("discoverySelectors: [{matchExpressions: [{key: mesh, operator: In, values: ['on']}]}]"));
    received.until("one is left", |received| received.deleted == ["Service/bank/b"]).await;
    server.put("configmaps", mesh_config("discoverySelectors: [{matchLabels: {mesh: 'off'}}]"));
    received
        .until("the other one", |received| received.has("Service/bank/b", "1") && !received.objects.contains_key("Service/shop/a"))
        .await;
    assert!(received.has("Service/istio-system/own", "1"), "our own namespace is always read");
    server.put("configmaps", mesh_config(""));
    received.until("all again", |received| received.has("Service/shop/a", "1") && received.has("Service/bank/b", "1")).await;
}

#[tokio::test]
async fn rights_in_the_watched_namespaces_are_enough() {
    let server = Server::new();
    server.give_rights_by_namespace();
    for name in ["shop", "bank", "istio-system", "closed"] {
        server.put("namespaces", namespace(name, "on"));
        // The test's server knows objects by their names alone.
        server.put("services", service_in(name, &format!("of-{name}")));
    }
    let mut received = Received::with(Settings { watch_namespaces: vec!["shop".into(), "bank".into()], ..settings(&server) });
    received.until("synced", |received| received.synced).await;
    for read in ["Service/shop/of-shop", "Service/bank/of-bank", "Service/istio-system/of-istio-system", "Namespace/closed"] {
        assert!(received.objects.contains_key(read), "{read} is missing in {:?}", received.objects);
    }
    assert!(
        !received.objects.contains_key("Service/closed/of-closed") && received.lost.is_empty(),
        "{:?}, lost {:?}",
        received.objects,
        received.lost
    );
    // They are followed, each by itself.
    server.put("services", service_in("closed", "c"));
    server.put("services", service_in("bank", "b"));
    received.until("followed", |received| received.has("Service/bank/b", "1")).await;
    server.remove("services", "b");
    received.until("gone", |received| received.deleted == ["Service/bank/b"]).await;
    assert!(!received.objects.contains_key("Service/closed/c"));
}

#[tokio::test]
async fn two_config_maps_make_one_mesh_config() {
    let server = Server::new();
    let shared = |mesh: &str| {
        let mut map = mesh_config(mesh);
        map["metadata"]["name"] = "shared".into();
        map
    };
    let only = |value: &str| format!("discoverySelectors: [{{matchLabels: {{mesh: '{value}'}}}}]");
    server.put("services", service_in("shop", "a"));
    server.put("services", service_in("bank", "b"));
    server.put("namespaces", namespace("shop", "on"));
    server.put("namespaces", namespace("bank", "off"));
    server.put("configmaps", shared(&only("on")));
    server.put("configmaps", mesh_config("accessLogFile: /dev/stdout"));
    let settings = Settings { shared_mesh_config: Some("shared".into()), ..settings(&server) };
    let at_start = super::super::mesh_config(&settings).await.unwrap();
    let Spec::MeshConfig(mesh) = &at_start.spec else { panic!("{at_start:?}") };
    assert!(mesh.access_log_file == "/dev/stdout" && mesh.discovery_selectors.len() == 1, "{mesh:?}");
    let mut received = Received::with(settings);
    received.until("synced", |received| received.synced).await;
    assert!(received.has("Service/shop/a", "1") && !received.objects.contains_key("Service/bank/b"), "{:?}", received.objects);
    // A mistake in one leaves what it said last, and does not keep the other from changing.
    server.put("configmaps", shared("discoverySelectors: 5"));
    let finding = |received: &Received| received.findings.get("kubernetes/MeshConfig/shared").is_some_and(|found| !found.is_empty());
    received.until("the mistake is named", finding).await;
    server.put("configmaps", mesh_config(&only("off")));
    received
        .until("ours lies above", |received| received.has("Service/bank/b", "1") && !received.objects.contains_key("Service/shop/a"))
        .await;
    server.remove("configmaps", "istio");
    received
        .until("the shared one alone", |received| received.has("Service/shop/a", "1") && !received.objects.contains_key("Service/bank/b"))
        .await;
    server.remove("configmaps", "shared");
    received
        .until("neither", |received| received.has("Service/bank/b", "1") && received.deleted.iter().any(|key| key.contains("MeshConfig")))
        .await;
}

/// MeshConfig that is refused, and asks for what its defaults leave open.
const REFUSED: &str = "connectTimeout: soon\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n";

fn is_closed(object: &Object) -> bool {
    matches!(&object.spec, Spec::MeshConfig(mesh) if mesh.outbound_traffic_policy == OutboundTrafficPolicy::RegistryOnly)
}

#[tokio::test]
async fn mesh_config_that_was_never_good_leaves_what_it_closes() {
    for mesh in [REFUSED, "{", "outboundTrafficPolicy: {mode: REGISTRY_ONYL}"] {
        let server = Server::new();
        server.put("configmaps", mesh_config(mesh));
        let settings = settings(&server);
        assert!(super::super::mesh_config(&settings).await.is_some_and(|object| is_closed(&object)), "{mesh}");
        let mut received = Received::with(settings);
        received.until("synced", |received| received.synced).await;
        assert!(received.objects.contains_key("MeshConfig/istio"), "{mesh}: {:?}", received.objects);
        let findings = |received: &Received| received.findings.get("kubernetes/MeshConfig").cloned().unwrap_or_default();
        received.until("both findings", |received| findings(received).len() == 2).await;
        assert!(findings(&received)[1].starts_with("warning: MeshConfig/istio data.mesh: no good version"), "{:?}", findings(&received));
    }
}

#[tokio::test]
async fn of_two_config_maps_each_leaves_what_it_closes() {
    let server = Server::new();
    let mut shared = mesh_config(REFUSED);
    shared["metadata"]["name"] = "shared".into();
    server.put("configmaps", shared);
    server.put("configmaps", mesh_config("accessLogFile: /dev/stdout"));
    let settings = Settings { shared_mesh_config: Some("shared".into()), ..settings(&server) };
    let object = super::super::mesh_config(&settings).await.unwrap();
    let Spec::MeshConfig(mesh) = &object.spec else { panic!("{object:?}") };
    assert!(is_closed(&object) && mesh.access_log_file == "/dev/stdout", "{mesh:?}");
    let mut received = Received::with(settings);
    received.until("synced", |received| received.synced).await;
    let of_both = |received: &Received| received.findings.get("kubernetes/mesh config").cloned();
    assert_eq!(of_both(&received), Some(Vec::new()), "they go together");
    server.put("configmaps", mesh_config("proxyListenPort: 16001\nproxyInboundListenPort: 16001"));
    received
        .until("refused by itself", |received| received.findings.get("kubernetes/MeshConfig").is_some_and(|found| !found.is_empty()))
        .await;
}

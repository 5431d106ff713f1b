//! A control plane that reads only some namespaces of a real API server.

use anyhow::{Result, ensure};
use harness::kubernetes::ApiServer;
use serde_json::{Value, json};

use crate::{objects::service, replica::Installation};

const GROUP: &str = "rbac.authorization.k8s.io";

#[tokio::test(flavor = "multi_thread")]
async fn rights_in_the_watched_namespaces_are_enough() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-watched").await?;
    for namespace in ["watched", "unwatched"] {
        plane.api.namespace(namespace).await?;
        plane.api.put(&[web(namespace, "first")]).await?;
    }
    plane.api.put(&narrow_rights(&plane.namespace, &["watched", &plane.namespace])).await?;
    let flags = ["--watch-namespaces=watched".to_owned()];
    let istiod = plane.start_with("istiod-1", 1, plane.api.address(), &flags)?;
    istiod.wait_until_ready().await?;
    let only = |name: &'static str| move |services: &str| services.contains(&host("watched", name)) && !services.contains(".unwatched.");
    istiod.wait_for_services(only("first")).await?;
    plane.api.put(&[web("unwatched", "second"), web("watched", "second")]).await?;
    istiod.wait_for_services(only("second")).await?;
    istiod.wait_for_metric(r#"istiod_managed_clusters{cluster_type="local"} 1"#).await?;
    let metrics = istiod.metrics().await?;
    let faults: Vec<&str> = metrics.lines().filter(|line| line.starts_with("istiod_lite_source_faults{")).collect();
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_selectors_come_from_either_config_map() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-selected").await?;
    for namespace in ["selected", "other"] {
        let labels = json!({ "scope": namespace });
        plane.api.put(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": labels } })]).await?;
        plane.api.put(&[web(namespace, "chosen")]).await?;
    }
    let read = json!({ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["shared"], "verbs": ["get", "list", "watch"] });
    plane.api.put(&role(&plane.namespace, &plane.namespace, "shared", &json!([read]))).await?;
    plane.api.put(&[mesh_config(&plane.namespace, "shared", "selected")]).await?;
    let flags = ["--shared-mesh-config=shared".to_owned()];
    let istiod = plane.start_with("istiod-1", 1, plane.api.address(), &flags)?;
    istiod.wait_until_ready().await?;
    let only = |there: &'static str, gone: &'static str| {
        move |services: &str| services.contains(&host(there, "chosen")) && !services.contains(&host(gone, "chosen"))
    };
    istiod.wait_for_services(only("selected", "other")).await?;
    // Our own lies above it.
    plane.api.put(&[mesh_config(&plane.namespace, &format!("istio-{}", plane.namespace), "other")]).await?;
    istiod.wait_for_services(only("other", "selected")).await?;
    // A namespace's label counts as it is now.
    let relabelled = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "selected", "labels": { "scope": "other" } } });
    plane.api.put(&[relabelled]).await?;
    istiod.wait_for_services(|services| ["selected", "other"].iter().all(|namespace| services.contains(&host(namespace, "chosen")))).await
}

fn host(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc.cluster.local")
}

fn web(namespace: &str, name: &str) -> Value {
    service(namespace, name, &json!({ "app": name }), 80, &json!(8080))
}

fn mesh_config(namespace: &str, name: &str, scope: &str) -> Value {
    let mesh = format!("discoverySelectors: [{{matchLabels: {{scope: {scope}}}}}]");
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace }, "data": { "mesh": mesh } })
}

/// Returns rights to what has no namespace, and to the rest in these namespaces only.
fn narrow_rights(user: &str, namespaces: &[&str]) -> Vec<Value> {
    let follow = json!(["get", "list", "watch"]);
    let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": follow });
    let cluster = json!([
        rule("", &["namespaces", "nodes"]),
        { "nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"] },
    ]);
    let within = json!([
        rule("", &["pods", "secrets", "configmaps", "services"]),
        rule("discovery.k8s.io", &["endpointslices"]),
        rule("networking.istio.io", &["*"]),
        rule("security.istio.io", &["*"]),
        rule("telemetry.istio.io", &["*"]),
        rule("extensions.istio.io", &["*"]),
        rule("istiod-lite.io", &["*"]),
    ]);
    let mut rights = vec![json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": { "name": user }, "rules": cluster,
    })];
    rights.extend(namespaces.iter().flat_map(|namespace| role(user, namespace, "mesh", &within)));
    rights
}

/// Returns a Role of this name in a namespace, and the user's binding to it.
fn role(user: &str, namespace: &str, name: &str, rules: &Value) -> Vec<Value> {
    let metadata = json!({ "name": name, "namespace": namespace });
    vec![
        json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": metadata, "rules": rules }),
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": GROUP, "kind": "Role", "name": name },
            "subjects": [{ "kind": "User", "name": user, "apiGroup": GROUP }],
        }),
    ]
}

//! How proxies are started that a real API server has injected: by ProxyConfigs of each level, and by annotations between them.

use anyhow::{Context, Result, ensure};
use harness::{
    kubernetes::{Object, crds},
    wait,
};
use serde_json::{Value, json};

use crate::injection::{Cluster, PATIENCE, container};

fn object(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1beta1", "kind": "ProxyConfig",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec,
    })
}

/// Returns what level says of a proxy, in its threads and in a variable.
fn says(level: u32) -> Value {
    json!({ "concurrency": level, "environmentVariables": { "LEVEL": level.to_string() } })
}

/// Has a pod created, and returns what its proxy is told of threads, and its variable.
async fn told(cluster: &Cluster, annotated: Option<&str>) -> Result<(Value, Value)> {
    let annotations = annotated.map(|config| json!({ "proxy.istio.io/config": config }));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "namespace": "shop", "labels": { "app": "web" }, "annotations": annotations.unwrap_or_default() },
        "spec": { "containers": [{ "name": "app", "image": "example.com/app:v1" }] },
    });
    let created = cluster.create(&pod).await?;
    let proxy = container(&created, "istio-proxy").context("no proxy")?;
    let variables = proxy["env"].as_array().context("no variables")?;
    let value = |name: &str| variables.iter().find(|variable| variable["name"] == name).map(|variable| variable["value"].clone());
    let config: Value = serde_json::from_str(value("PROXY_CONFIG").as_ref().and_then(Value::as_str).context("no PROXY_CONFIG")?)?;
    Ok((config["concurrency"].clone(), value("LEVEL").unwrap_or_default()))
}

async fn wait_until_told(cluster: &Cluster, annotated: Option<&str>, expected: (Value, Value)) -> Result<()> {
    wait::until("pods to be injected so", PATIENCE, || async {
        let told = told(cluster, annotated).await?;
        ensure!(told == expected, "{told:?}, not {expected:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closest_says_how_a_proxy_is_started_and_a_broken_one_stops_nobody() -> Result<()> {
    let cluster = Cluster::start().await?;
    let level = |level: u32| (json!(level), json!(level.to_string()));
    ensure!(told(&cluster, None).await? == (Value::Null, Value::Null), "there is no such kind yet");
    cluster.api.define(&[crds::of_kind("ProxyConfig").context("no definition")?]).await?;

    cluster.api.put(&[object("istio-system", "mesh", says(1))]).await?;
    wait_until_told(&cluster, None, level(1)).await?;
    cluster.api.put(&[object("shop", "all", says(2))]).await?;
    wait_until_told(&cluster, None, level(2)).await?;
    let annotated = Some("concurrency: 3\nproxyMetadata: {LEVEL: \"3\"}");
    ensure!(told(&cluster, annotated).await? == level(3), "the annotation goes before the namespace");
    let mut selecting = says(4);
    selecting["selector"] = json!({ "matchLabels": { "app": "web" } });
    cluster.api.put(&[object("shop", "web", selecting)]).await?;
    wait_until_told(&cluster, annotated, level(4)).await?;

    // What was good stays, and what never was is left out.
    let broken = json!({ "spec": { "concurrency": -1, "environmentVariables": { "a b": "c" } } });
    cluster.api.patch(web(), &broken).await?;
    cluster.api.put(&[object("shop", "broken", broken["spec"].clone())]).await?;
    wait::until("both to be named", PATIENCE, || async {
        let found = cluster.diagnostics().await?;
        let named = ["ProxyConfig/shop/web", "ProxyConfig/shop/broken", "spec.concurrency", "a b"];
        ensure!(named.iter().all(|named| found.contains(named)), "{found}");
        Ok(())
    })
    .await?;
    ensure!(told(&cluster, annotated).await? == level(4), "a broken object was given effect");
    cluster.api.delete(web()).await?;
    wait_until_told(&cluster, annotated, level(3)).await?;
    ensure!(told(&cluster, None).await? == level(2), "a broken object was given effect");
    Ok(())
}

fn web() -> Object<'static> {
    Object { api_version: "networking.istio.io/v1beta1", kind: "ProxyConfig", namespace: "shop", name: "web" }
}

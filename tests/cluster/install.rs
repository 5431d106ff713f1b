//! Installing and removing, by the commands of docs/kubernetes.md.

use anyhow::{Result, ensure};
use harness::{
    cluster::{
        Cluster, PATIENCE,
        shop::{SHOP, SYSTEM, Shop, available},
    },
    http_client::get,
    wait,
};

/// Checks a mesh on a cluster that was empty; crds, base and demo were applied in that order.
pub(crate) async fn three_folders_bring_up_a_working_mesh(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    // As a person would ask, by name, through DNS and the client's sidecar.
    let ask = ["-n", SHOP, "exec", "deployment/client", "-c", "client", "--", "/reviews", "get", "http://reviews:9080/"];
    let answer = cluster.kubectl(&ask).await?;
    ensure!(answer.starts_with("200 OK") && answer.contains("reviews v1 (good)"), "{answer}");
    ensure!(answer.contains("URI=spiffe://cluster.local/ns/shop/sa/client"), "not asked by the client's identity: {answer}");
    // What is applied again is applied already, whatever the control plane wrote into it meanwhile.
    cluster.apply_folder("base").await?;
    let bundles = ["get", "mutatingwebhookconfiguration", "istio-sidecar-injector", "-o", "jsonpath={.webhooks[*].clientConfig.caBundle}"];
    let bundles = cluster.kubectl(&bundles).await?;
    ensure!(bundles.split_whitespace().count() == 4, "the caBundle of a webhook is gone: {bundles}");
    ensure!(!shop.control_planes().await?.is_empty(), "no control plane");
    Ok(())
}

/// Removes everything in the order of the docs: the demo, the control plane, the definitions.
pub(crate) async fn what_was_installed_can_be_removed(cluster: &Cluster) -> Result<()> {
    for folder in ["demo", "base", "crds"] {
        cluster.delete_folder(folder).await?;
    }
    for namespace in [SHOP, SYSTEM] {
        wait::until(&format!("namespace {namespace} to be gone"), PATIENCE, || async {
            let left = cluster.kubectl(&["get", "namespace", namespace, "--ignore-not-found", "-o", "name"]).await?;
            ensure!(left.is_empty(), "still there");
            Ok(())
        })
        .await?;
    }
    // No webhook is left that would refuse pods.
    cluster.kubectl(&["create", "namespace", "after"]).await?;
    cluster.kubectl(&["label", "namespace", "after", "istio-injection=enabled"]).await?;
    wait::until("pods to be made without the injector", PATIENCE, || async {
        cluster.kubectl(&["-n", "after", "run", "plain", "--image=localhost/reviews:1", "--", "serve", "plain"]).await
    })
    .await?;
    cluster.wait_for("after", "condition=Ready", &["pod/plain"]).await
}

/// Checks `manifests/revision` beside `manifests/base`.
pub(crate) async fn a_revision_serves_those_who_ask_for_it(cluster: &Cluster) -> Result<()> {
    let before = Shop::find(cluster).await?.client().name.clone();
    cluster.apply_folder("revision").await?;
    available(cluster, SYSTEM, &["istiod-lite"]).await?;
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: asks, labels: {istio.io/rev: lite}}}").await?;
    let deployment = ["-n", "asks", "create", "deployment", "asker", "--image=localhost/reviews:1", "--", "/reviews", "serve", "asker"];
    cluster.kubectl(&deployment).await?;
    available(cluster, "asks", &["asker"]).await?;
    let whom = ["-n", "asks", "get", "pods", "-l", "app=asker", "-o", "jsonpath={.items[*].spec.initContainers[*].args}"];
    let whom = cluster.kubectl(&whom).await?;
    let asker = cluster.only_pod("asks", "app=asker").await?;
    let lite = cluster.only_pod(SYSTEM, "app=istiod,istio.io/rev=lite").await?;
    let proxies = lite.monitoring("/debug/syncz").await?;
    ensure!(proxies.contains(&asker.name), "{} is not at its revision; it was told {whom}: {proxies}", asker.name);
    ensure!(!proxies.contains(&before), "the default revision's proxies are at this one: {proxies}");
    // One root: what asks from there is served in a STRICT namespace of the other.
    let reviews = Shop::find(cluster).await?.reviews();
    let answer = asker.place().run(async move { get(reviews, "reviews.shop:9080", "/").await }).await?;
    ensure!(answer.header("x-peer").contains("URI=spiffe://cluster.local/ns/asks/"), "{} {}", answer.status, answer.text());
    cluster.kubectl(&["delete", "namespace", "asks"]).await?;
    // All but the namespace, which is the default revision's as well.
    cluster.kubectl(&["delete", "deployment,service,configmap,poddisruptionbudget", "-n", SYSTEM, "-l", "istio.io/rev=lite"]).await?;
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", "-l", "istio.io/rev=lite"]).await?;
    Ok(())
}

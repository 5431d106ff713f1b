//! Behind the API server's address there is suddenly something else: an empty cluster, or an older state of ours. What
//! it says, and above all what it does not say, must take nothing away from the proxies.

use anyhow::{Result, ensure};
use harness::kubernetes::Object;

use serde_json::json;

use crate::{
    objects,
    shop::{Shop, Traffic},
};

const KUBE_SYSTEM: Object<'_> = Object { api_version: "v1", kind: "Namespace", namespace: "", name: "kube-system" };

const SHOP: Object<'_> = Object { name: "shop", ..KUBE_SYSTEM };

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_in_place_of_ours_is_not_believed() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    let before = shop.clusters().await?;
    let (ours, root) = (uid(&shop).await?, shop.root().await?);
    shop.api.switch_storage("empty").await?;
    // First it does not even know us.
    shop.wait_for_metric(r#"istiod_lite_source_lost{source="kubernetes/Service"} 1"#).await?;
    expect_as_before(&shop, &traffic, &before).await?;
    // Then somebody sets it up: it has our rights, all kinds, and no objects.
    shop.api.namespace("istio-system").await?;
    shop.api.put(&objects::rights(&[])?).await?;
    shop.api.define(&objects::definitions()?).await?;
    let other = uid(&shop).await?;
    let why = shop.wait_for_readiness(false).await?;
    ensure!(why.contains(&ours) && why.contains(&other), "both clusters are to be named: {why}");
    shop.wait_for_log(&["source lost", &ours, &other]).await?;
    for kind in ["Service", "EndpointSlice", "VirtualService", "Gateway.networking.istio.io"] {
        shop.wait_for_metric(&format!(r#"istiod_lite_source_lost{{source="kubernetes/{kind}"}} 1"#)).await?;
        shop.wait_for_metric(&format!(r#"istiod_lite_source_faults{{source="kubernetes/{kind}",reason="untrusted"}}"#)).await?;
    }
    expect_as_before(&shop, &traffic, &before).await?;
    let shop = goes_on(shop, traffic, &before).await?;
    ensure!(shop.root().await? == root, "another root than before");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_of_our_cluster_is_not_believed() -> Result<()> {
    let mut shop = Shop::start().await?;
    shop.api.back_up_storage("backup").await?;
    let traffic = shop.traffic().await?;
    // A state of the cluster that is far behind, as a backup of last night is.
    for round in 0..150 {
        shop.api.patch(SHOP, &json!({ "metadata": { "annotations": { "round": round.to_string() } } })).await?;
    }
    shop.patch_weights(100).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    let before = shop.clusters().await?;
    shop.api.switch_storage("backup").await?;
    let why = shop.wait_for_readiness(false).await?;
    ensure!(why.contains("older state"), "it does not say why: {why}");
    shop.wait_for_log(&["source lost", "older state"]).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    expect_as_before(&shop, &traffic, &before).await?;
    goes_on(shop, traffic, &before).await?;
    Ok(())
}

/// Checks that all is well once our cluster is back: it is ready again, and what changes arrives.
async fn goes_on(mut shop: Shop, traffic: Traffic, before: &[String]) -> Result<Shop> {
    shop.api.switch_storage("first").await?;
    shop.wait_for_readiness(true).await?;
    shop.wait_until_found().await?;
    expect_as_before(&shop, &traffic, before).await?;
    shop.patch_weights(0).await?;
    shop.wait_for_version(&traffic, "v1").await?;
    shop.patch_weights(100).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    traffic.judge(&mut shop).await?;
    Ok(shop)
}

async fn expect_as_before(shop: &Shop, traffic: &Traffic, before: &[String]) -> Result<()> {
    ensure!(shop.clusters().await? == before, "withdrawn: {:?} of {before:?} are left", shop.clusters().await?);
    traffic.expect_no_failures()
}

async fn uid(shop: &Shop) -> Result<String> {
    Ok(shop.api.get(KUBE_SYSTEM).await?["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}

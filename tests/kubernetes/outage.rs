//! The API server is away while traffic flows: nothing is withdrawn, and what changed meanwhile arrives afterwards.

use anyhow::{Result, ensure};
use harness::kubernetes::{ApiServer, Options};
use serde_json::json;

use crate::{
    objects::{self, istio},
    shop::{Shop, service_entry},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_killed_and_comes_back() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    let before = shop.clusters().await?;
    shop.api.kill()?;
    shop.wait_for_metric(r#"istiod_lite_source_lost{source="kubernetes/Service"} 1"#).await?;
    shop.wait_for_metric(r#"istiod_lite_source_lost{source="kubernetes/VirtualService"} 1"#).await?;
    shop.wait_for_metric(r#"istiod_lite_source_faults{source="kubernetes/Service",reason="away"}"#).await?;
    shop.wait_for_log(&["source lost", "kubernetes/Service"]).await?;
    // What is known is as good as what can be known: proxies are better served here than nowhere.
    shop.wait_for_readiness(true).await?;
    shop.wait_for_version(&traffic, "v1").await?;
    ensure!(shop.clusters().await? == before, "withdrawn while the API server was away");
    shop.api.resume().await?;
    shop.wait_until_found().await?;
    ensure!(shop.clusters().await? == before, "withdrawn when the API server was back");
    shop.patch_weights(100).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_meanwhile_arrives_though_the_watches_expired() -> Result<()> {
    // Without its cache the API server asks etcd for what happened, and etcd is made to forget.
    let api = ApiServer::start(Options { flags: vec!["--watch-cache=false".to_owned()], ..Options::default() }).await?;
    api.define(&objects::definitions()?).await?;
    let mut shop = Shop::open(api).await?;
    shop.api.put(&[external("removed")]).await?;
    shop.wait_for_config(shop.client(), "removed.example", true).await?;
    let traffic = shop.traffic().await?;
    shop.wire.cut();
    shop.wait_for_metric(r#"istiod_lite_source_lost{source="kubernetes/ServiceEntry"} 1"#).await?;
    shop.api.delete(service_entry("removed")).await?;
    shop.api.put(&[external("added")]).await?;
    shop.patch_weights(100).await?;
    shop.api.compact().await?;
    shop.wait_for_config(shop.client(), "removed.example", true).await?;
    shop.wire.mend();
    shop.wait_for_log(&["kubernetes/ServiceEntry", "listing again"]).await?;
    shop.wait_for_metric(r#"istiod_lite_source_faults{source="kubernetes/ServiceEntry",reason="expired"}"#).await?;
    shop.wait_for_config(shop.client(), "added.example", true).await?;
    shop.wait_for_config(shop.client(), "removed.example", false).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    shop.wait_until_found().await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

/// Returns a host outside the mesh.
pub(crate) fn external(name: &str) -> serde_json::Value {
    istio(
        "ServiceEntry",
        name,
        &json!({
            "hosts": [format!("{name}.example")], "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "ports": [{ "number": 7070, "name": "http", "protocol": "HTTP" }],
            "endpoints": [{ "address": "192.0.2.7" }],
        }),
    )
}

//! What goes wrong within an API server that is there: kinds that come and go, objects that nobody can read, rights
//! that are taken away. Each hurts only itself, and is named in the log and in a metric.

use anyhow::{Result, ensure};
use harness::{
    kubernetes::{ApiServer, Object, Options, Who, crds},
    wait,
};
use serde_json::{Value, json};

use crate::{
    objects::{self, USER, istio},
    outage::external,
    shop::{PATIENCE, Shop, VIRTUAL_SERVICE},
};

const ENTRIES: Object<'_> = Object {
    api_version: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    namespace: "",
    name: "serviceentries.networking.istio.io",
};

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_may_come_and_go() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    let is_entry = |definition: &Value| definition["spec"]["names"]["kind"] == "ServiceEntry";
    let (late, early) = objects::definitions()?.into_iter().partition::<Vec<_>, _>(is_entry);
    api.define(&early).await?;
    // It is ready without the kind that is missing.
    let mut shop = Shop::open(api).await?;
    let traffic = shop.traffic().await?;
    let absent = r#"istiod_lite_source_served{kind="ServiceEntry",version=""} 0"#;
    let served = r#"istiod_lite_source_served{kind="ServiceEntry",version="v1"} 1"#;
    shop.wait_for_metric(absent).await?;
    shop.api.define(&late).await?;
    shop.api.put(&[external("late")]).await?;
    shop.wait_for_config(shop.client(), "late.example", true).await?;
    shop.wait_for_log(&["served version changed", "ServiceEntry"]).await?;
    shop.wait_for_metric(served).await?;
    // With its definition the API server drops all objects of a kind.
    shop.api.delete(ENTRIES).await?;
    shop.wait_for_config(shop.client(), "late.example", false).await?;
    shop.wait_for_metric(absent).await?;
    shop.api.define(&late).await?;
    shop.api.put(&[external("again")]).await?;
    shop.wait_for_config(shop.client(), "again.example", true).await?;
    shop.wait_until_found().await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_nobody_can_read_hurts_only_itself() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    // Definitions that let anything pass.
    api.define(&crds::istio()).await?;
    let mut shop = Shop::open(api).await?;
    let traffic = shop.traffic().await?;
    // By a watch: what was good before stays.
    shop.api.patch(VIRTUAL_SERVICE, &json!({ "spec": { "http": "all to v2" } })).await?;
    shop.api.put(&[istio("ServiceEntry", "unreadable", &json!([1, 2, 3])), external("good")]).await?;
    shop.wait_for_config(shop.client(), "good.example", true).await?;
    wait::until("both to be named", PATIENCE, || async {
        let found = shop.diagnostics().await?;
        ensure!(found.contains("VirtualService/shop/reviews") && found.contains("ServiceEntry/shop/unreadable"), "{found}");
        Ok(())
    })
    .await?;
    shop.wait_for_log(&["VirtualService/shop/reviews", "spec.http"]).await?;
    shop.wait_for_metric(r#"istiod_lite_diagnostics{severity="error"}"#).await?;
    for kind in ["VirtualService", "ServiceEntry"] {
        shop.wait_for_metric(&format!(r#"istiod_lite_source_refused_objects{{source="kubernetes/{kind}"}} 1"#)).await?;
    }
    shop.wait_for_version(&traffic, "v1").await?;
    shop.patch_weights(100).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    // By a list: one among good ones.
    shop.restart_control_plane().await?;
    shop.api.put(&[external("better")]).await?;
    shop.wait_for_config(shop.client(), "better.example", true).await?;
    shop.wait_for_config(shop.client(), "good.example", true).await?;
    let found = shop.diagnostics().await?;
    ensure!(found.contains("ServiceEntry/shop/unreadable") && !found.contains("VirtualService"), "{found}");
    traffic.judge(&mut shop).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_may_be_taken_away_and_given_back() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    shop.api.put(&objects::rights(&["virtualservices"])?).await?;
    wait_until_refused(&shop).await?;
    // A watch that is open already is not asked for its rights.
    shop.wire.drop_connections();
    shop.wait_for_metric(r#"istiod_lite_source_lost{source="kubernetes/VirtualService"} 1"#).await?;
    shop.wait_for_metric(r#"istiod_lite_source_faults{source="kubernetes/VirtualService",reason="forbidden"}"#).await?;
    shop.wait_for_log(&["source lost", "kubernetes/VirtualService", "forbidden"]).await?;
    shop.wait_for_readiness(true).await?;
    // The others go on.
    shop.api.put(&[external("meanwhile")]).await?;
    shop.wait_for_config(shop.client(), "meanwhile.example", true).await?;
    shop.patch_weights(100).await?;
    shop.api.put(&objects::rights(&[])?).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    shop.wait_until_found().await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

/// Waits until the API server knows the rights, which it does a moment after they are written.
async fn wait_until_refused(shop: &Shop) -> Result<()> {
    let client = shop.api.client_of(Who::User { name: USER, group: None }).await?;
    wait::until("the right to be gone", PATIENCE, || async {
        let request = http::Request::get("/apis/networking.istio.io/v1/virtualservices").body(Vec::new())?;
        let answer = client.request_text(request).await;
        ensure!(answer.as_ref().is_err_and(|error| error.to_string().contains("forbidden")), "{answer:?}");
        Ok(())
    })
    .await
}

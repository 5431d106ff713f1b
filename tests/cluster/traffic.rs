//! What goes over the wire, and who is let in.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{
    cluster::{
        Cluster, PATIENCE, POD_NETWORK,
        shop::{SHOP, Shop},
    },
    http_client::get,
    namespace::{Sniffer, seen},
    wait,
};

/// Checks every frame between pods, all of which the node sees.
pub(crate) async fn plain_http_is_mutual_tls_on_the_wire(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    let sniffer = cluster.node().run(async { Sniffer::of(POD_NETWORK) }).await?;
    // Proof that the recorder sees what is sent in the clear: the way to the gateway is.
    let ask = "/plain-as-day";
    let gateway = std::net::SocketAddr::new(shop.gateway().address, 8080);
    cluster.node().run(async move { get(gateway, "shop.example.com", ask).await }).await?;
    let reviews = shop.reviews();
    let answer = shop.client().place().run(async move { get(reviews, "reviews.shop:9080", "/as-a-client-says-it").await }).await?;
    let frames = sniffer.stop()?;

    ensure!(answer.text().contains("reviews v"), "not the workload's answer: {}", answer.text());
    let peer = answer.header("x-peer");
    ensure!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/client"), "the client's certificate was not seen: {peer}");
    ensure!(peer.contains("By=spiffe://cluster.local/ns/shop/sa/reviews"), "the server's own identity is missing: {peer}");
    ensure!(seen(&frames, ask.as_bytes()), "the recorder does not see plaintext: it proves nothing");
    for plaintext in ["/as-a-client-says-it", "reviews.shop:9080", "x-forwarded-client-cert"] {
        ensure!(!seen(&frames, plaintext.as_bytes()), "on the wire in the clear: {plaintext}");
    }
    Ok(())
}

/// Checks the shop's PeerAuthentication `default`, which is STRICT.
pub(crate) async fn strict_refuses_a_pod_without_sidecar(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    let outsider = ["-n", "default", "run", "outsider", "--image=localhost/reviews:1", "--labels=app=outsider", "--", "serve", "outsider"];
    cluster.kubectl(&outsider).await?;
    cluster.wait_for("default", "condition=Ready", &["pod/outsider"]).await?;
    let outsider = cluster.only_pod("default", "app=outsider").await?;
    let reviews = cluster.only_pod(SHOP, "app=reviews,version=v1").await?;
    for target in [shop.reviews(), std::net::SocketAddr::new(reviews.address, 9080)] {
        let refused = outsider.place().run(async move { get(target, "reviews.shop:9080", "/").await }).await;
        ensure!(refused.is_err(), "{target} answered a pod without sidecar: {refused:?}");
    }
    // It is the rule that refuses, not the network: without the rule the same pod is served.
    permissive(cluster, true).await?;
    let target = shop.reviews();
    let served = wait::until("the pod without sidecar to be served", PATIENCE, || {
        outsider.place().run(async move {
            let answer = get(target, "reviews.shop:9080", "/").await?;
            ensure!(answer.status == http::StatusCode::OK, "{}", answer.status);
            Ok(())
        })
    })
    .await;
    permissive(cluster, false).await?;
    served?;
    wait::until("STRICT to be in force again", PATIENCE, || {
        outsider.place().run(async move {
            ensure!(get(target, "reviews.shop:9080", "/").await.is_err(), "still served");
            Ok(())
        })
    })
    .await?;
    cluster.kubectl(&["-n", "default", "delete", "pod", "outsider", "--now"]).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

async fn permissive(cluster: &Cluster, permissive: bool) -> Result<()> {
    let mode = if permissive { "PERMISSIVE" } else { "STRICT" };
    let patch = format!(r#"{{"spec": {{"mtls": {{"mode": "{mode}"}}}}}}"#);
    cluster.kubectl(&["-n", SHOP, "patch", "peerauthentication", "default", "--type=merge", "-p", &patch]).await.map(|_| ())
}

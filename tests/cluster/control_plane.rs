//! The control plane's pod goes, comes back, and has a second beside it.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{
    canary::Stage,
    cluster::{
        Cluster, PATIENCE,
        pods::Pod,
        shop::{ISTIOD, SYSTEM, Shop, available},
    },
    wait,
};
use istiod_lite::controllers::LEASE;
use serde_json::Value;

use crate::stage::Measured;

/// Proxies of `manifests/demo`: gateway, client, two versions of `reviews`.
const PROXIES: usize = 4;
/// Ports of the Service `istiod`, whose one endpoint is another pod afterwards: each proxy is told so, once a port. One that
/// comes back while the control plane has not yet read of its own readiness is also told the clusters of these ports, whose
/// names to verify are those of their endpoints.
const PORTS_OF_ISTIOD: u64 = 4;

/// Nobody who asks `reviews` notices, and the next change is in force as before.
pub(crate) async fn it_is_deleted_under_load(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    shop.shift(0).await?;
    let mut measured = Measured::start(&shop, 100).await?;
    let istiod = replace_it(cluster).await?;
    measured.reached("every proxy is at the new control plane");
    expect_only_warming_is_sent(&istiod).await?;
    measured.reached("nothing more is sent");
    shop.shift(50).await?;
    measured.reached("half is at v2");
    shop.shift(0).await?;
    measured.reached("all is at v1 again");
    measured.expect_no_failures(&shop).await
}

/// The same with nothing else going on, so that nothing else could be the reason for what is sent.
pub(crate) async fn it_is_deleted_without_load(cluster: &Cluster) -> Result<()> {
    let istiod = replace_it(cluster).await?;
    expect_only_warming_is_sent(&istiod).await
}

/// Two replicas, one leader; the leader goes, and the other one writes.
pub(crate) async fn a_second_replica_takes_over(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/istiod", "--replicas=2"]).await?;
    cluster.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/istiod", "--timeout=180s"]).await?;
    let first = wait::until("a leader that is alive", PATIENCE, || living_leader(cluster)).await?;
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &first, "--grace-period=0", "--force"]).await?;
    let second = wait::until("another leader", PATIENCE, || async {
        let now = living_leader(cluster).await?;
        ensure!(now != first, "still {now}");
        Ok(now)
    })
    .await?;
    // What only a leader does: the root certificate in a new namespace.
    cluster.kubectl(&["create", "namespace", "led"]).await?;
    wait::until(&format!("{second} to write the root certificate"), PATIENCE, || async {
        cluster.kubectl(&["-n", "led", "get", "configmap", "istio-ca-root-cert"]).await
    })
    .await?;
    cluster.kubectl(&["delete", "namespace", "led", "--wait=false"]).await?;
    cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/istiod", "--replicas=1"]).await?;
    wait::until("one control plane again", PATIENCE, || async { cluster.only_pod(SYSTEM, ISTIOD).await.map(|_| ()) }).await
}

/// Who holds the Lease of the controllers; empty when nobody does.
async fn leader(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["-n", SYSTEM, "get", "lease", LEASE, "-o", "jsonpath={.spec.holderIdentity}"]).await
}

/// The leader, if it is not one whose Lease only has not run out yet.
async fn living_leader(cluster: &Cluster) -> Result<String> {
    let leader = leader(cluster).await?;
    let pods = cluster.pods(SYSTEM, ISTIOD).await?;
    ensure!(pods.iter().any(|pod| pod.name == leader), "{leader} is gone");
    Ok(leader)
}

/// Deletes the control plane's pod as a node's end would, and waits until its successor has every proxy.
pub(crate) async fn replace_it(cluster: &Cluster) -> Result<Pod> {
    let old = cluster.only_pod(SYSTEM, ISTIOD).await?.name;
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &old, "--grace-period=0", "--force"]).await?;
    available(cluster, SYSTEM, &["istiod"]).await?;
    wait::until("every proxy at the new control plane", PATIENCE, || async {
        let pod = cluster.only_pod(SYSTEM, ISTIOD).await?;
        ensure!(pod.name != old, "still the old one");
        let connected = connected(&pod).await?;
        ensure!(connected == PROXIES, "{connected} of {PROXIES} proxies are");
        Ok(pod)
    })
    .await
}

async fn connected(istiod: &Pod) -> Result<usize> {
    let proxies: Value = serde_json::from_str(&istiod.monitoring("/debug/syncz").await?)?;
    Ok(proxies.as_array().map_or(0, Vec::len))
}

/// Of what a control plane sends after its return, all but endpoints for warming is a waste: the proxies have it. The
/// exception is the truth: its own endpoint is new.
async fn expect_only_warming_is_sent(istiod: &Pod) -> Result<()> {
    // What would be sent is sent at once; the counter is read when it has been still for a while.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let metrics = istiod.monitoring("/metrics").await?;
    let sent = metrics.lines().filter(|line| line.starts_with("istiod_lite_xds_resources_total"));
    let (warming, other) = sent.partition::<Vec<_>, _>(|line| line.contains(r#"reason="warming""#));
    ensure!(!warming.is_empty() || !other.is_empty(), "no counter of what is sent:\n{metrics}");
    let wasted = other.iter().filter(|line| !is_allowed(line)).collect::<Vec<_>>();
    ensure!(wasted.is_empty(), "sent again though unchanged: {wasted:#?}");
    Ok(())
}

fn is_allowed(line: &str) -> bool {
    let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(u64::MAX);
    let of_istiod = [r#"type="eds""#, r#"type="cds",reason="reconnect""#].iter().any(|kind| line.contains(kind));
    count == 0 || (of_istiod && count <= PROXIES as u64 * PORTS_OF_ISTIOD)
}

//! The control plane's pod goes, comes back, and has a second beside it.

use std::{collections::BTreeSet, time::Duration};

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
/// Ports of the Service `istiod`, whose one endpoint is another pod afterwards: each proxy is told so, once a port.
const PORTS_OF_ISTIOD: u64 = 4;
/// How the names of its clusters end. A proxy that comes back while the control plane has not yet read of its own readiness is
/// told these, whose names to verify are those of their endpoints.
const CLUSTERS_OF_ISTIOD: &str = "|istiod.istio-system.svc.cluster.local";

/// Checks that nobody who asks `reviews` notices, and that the next change is in force as before.
pub(crate) async fn it_is_deleted_under_load(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    expect_nothing_drains(&shop).await?;
    shop.shift(0).await?;
    let mut measured = Measured::start(&shop, 100).await?;
    let before = Clusters::of(&shop).await?;
    let istiod = replace_it(cluster).await?;
    measured.reached("every proxy is at the new control plane");
    expect_only_warming_is_sent(&istiod, &shop, &before).await?;
    measured.reached("nothing more is sent");
    shop.shift(50).await?;
    measured.reached("half is at v2");
    shop.shift(0).await?;
    measured.reached("all is at v1 again");
    measured.expect_no_failures(&shop).await
}

/// Checks the same with nothing else going on, so that nothing else could be the reason for what is sent.
pub(crate) async fn it_is_deleted_without_load(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    let before = Clusters::of(&shop).await?;
    let istiod = replace_it(cluster).await?;
    expect_only_warming_is_sent(&istiod, &shop, &before).await
}

/// Checks that of two replicas the other one writes when the leader goes.
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

/// Returns who holds the Lease of the controllers; empty when nobody does.
async fn leader(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["-n", SYSTEM, "get", "lease", LEASE, "-o", "jsonpath={.spec.holderIdentity}"]).await
}

/// Returns the leader, if it is not one whose Lease only has not run out yet.
pub(crate) async fn living_leader(cluster: &Cluster) -> Result<String> {
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

/// Waits until no Envoy has a listener that an earlier test changed: at the end of its drain (45 s) Envoy closes what is left
/// of its connections, with or without a request on them. That is the earlier change's doing, not the control plane's.
async fn expect_nothing_drains(shop: &Shop<'_>) -> Result<()> {
    wait::until("listeners to be drained", PATIENCE, || async {
        for pod in shop.versions().iter().chain([shop.client(), shop.gateway()]) {
            let counters = pod.counters().await?;
            let draining = counters.sum(".total_listeners_draining") + counters.sum(".total_filter_chains_draining");
            ensure!(draining == 0, "{} drains {draining}", pod.name);
        }
        Ok(())
    })
    .await
}

async fn connected(istiod: &Pod) -> Result<usize> {
    let proxies: Value = serde_json::from_str(&istiod.monitoring("/debug/syncz").await?)?;
    Ok(proxies.as_array().map_or(0, Vec::len))
}

/// Checks that a control plane sends nothing but endpoints for warming after its return: the proxies have all else. The
/// exception is the truth: its own endpoint is new.
async fn expect_only_warming_is_sent(istiod: &Pod, shop: &Shop<'_>, before: &Clusters) -> Result<()> {
    // What would be sent is sent at once; the counter is read when it has been still for a while.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let metrics = istiod.monitoring("/metrics").await?;
    let replaced = Clusters::of(shop).await?.not_in(before);
    let others = replaced.iter().filter(|cluster| !cluster.name.ends_with(CLUSTERS_OF_ISTIOD)).collect::<Vec<_>>();
    ensure!(others.is_empty(), "clusters that did not change were replaced: {others:#?}");
    let sent = metrics.lines().filter(|line| line.starts_with("istiod_lite_xds_resources_total"));
    let (warming, other) = sent.partition::<Vec<_>, _>(|line| line.contains(r#"reason="warming""#));
    ensure!(!warming.is_empty() || !other.is_empty(), "no counter of what is sent:\n{metrics}");
    let wasted = other.iter().filter(|line| !is_allowed(line, replaced.len() as u64)).collect::<Vec<_>>();
    ensure!(wasted.is_empty(), "sent again though unchanged: {wasted:#?} ({} clusters of istiod were replaced)", replaced.len());
    Ok(())
}

/// Returns whether a line of metrics is as expected. `replaced` clusters were news to a proxy; any other that is sent is not.
fn is_allowed(line: &str, replaced: u64) -> bool {
    let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(u64::MAX);
    let of_istiod = [(r#"type="eds""#, PROXIES as u64 * PORTS_OF_ISTIOD), (r#"type="cds",reason="reconnect""#, replaced)];
    count == 0 || of_istiod.iter().any(|(kind, most)| line.contains(kind) && count <= *most)
}

/// The clusters of every Envoy, each as it came.
struct Clusters(BTreeSet<Received>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Received {
    proxy: String,
    name: String,
    /// When this content of it came.
    at: String,
}

impl Clusters {
    async fn of(shop: &Shop<'_>) -> Result<Self> {
        let mut received = BTreeSet::new();
        for pod in shop.versions().iter().chain([shop.client(), shop.gateway()]) {
            let dump = pod.place().run(async { Pod::admin().config_dump().await }).await?;
            let clusters = dump["configs"].as_array().into_iter().flatten().flat_map(|part| part["dynamic_active_clusters"].as_array());
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            received.extend(clusters.flatten().map(|cluster| Received {
                proxy: pod.name.clone(),
                name: text(&cluster["cluster"]["name"]),
                at: text(&cluster["last_updated"]),
            }));
        }
        ensure!(received.iter().any(|cluster| cluster.name.ends_with(CLUSTERS_OF_ISTIOD)), "no proxy has istiod's clusters");
        Ok(Self(received))
    }

    fn not_in(&self, earlier: &Self) -> Vec<Received> {
        self.0.difference(&earlier.0).cloned().collect()
    }
}

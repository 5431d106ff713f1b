//! Endpoints near a client have its traffic under outlier detection, and those farther away when these have failed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::mesh::REVIEWS_V1;

use crate::mesh::{Measured, PATHS, start, turn, without_subsets};

const WORKLOADS_FILE: &str = "workloads.yaml";
const ROUTING_FILE: &str = "routing.yaml";
const RULE: &str = "DestinationRule/shop/reviews";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn near_endpoints_have_the_traffic_until_they_fail() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    without_subsets(&mesh).await?;
    // v2 is in another region than its clients.
    let workloads = mesh.manifests().read(WORKLOADS_FILE)?;
    let (v1, v2) = workloads.split_once("name: reviews-v2-1").ok_or_else(|| anyhow::anyhow!("no pod of v2"))?;
    let apart = format!("{v1}name: reviews-v2-1{}", v2.replacen("nodeName: laptop", "nodeName: abroad", 1));
    let node = "\n---\napiVersion: v1\nkind: Node\nmetadata: {name: abroad, labels: {topology.kubernetes.io/region: elsewhere}}\n";
    let apart = apart.trim_end().to_owned() + node;
    mesh.manifests().write(WORKLOADS_FILE, &apart)?;
    let measured = Measured::start(&mesh, 100).await?;
    until("both serve without outlier detection", &measured, |v1, v2, total| v1 > 0 && v2 > 0 && v1 + v2 == total).await?;

    let routing = mesh.manifests().read(ROUTING_FILE)?;
    let detection =
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100}}\n  subsets:";
    mesh.apply(ROUTING_FILE, &routing.replace("subsets:", detection), RULE).await?;
    until("only what is near serves", &measured, |v1, _, total| v1 == total).await?;

    // One that is not ready is not waited for.
    let unready = apart.replacen("conditions: {ready: true}", "conditions: {ready: false, serving: false, terminating: false}", 1);
    mesh.manifests().write(WORKLOADS_FILE, &unready)?;
    until("what is far serves when the near one is not ready", &measured, |_, v2, total| v2 == total).await?;
    mesh.manifests().write(WORKLOADS_FILE, &apart)?;
    until("the near one serves again", &measured, |v1, _, total| v1 == total).await?;

    // Where the near one is now, nobody listens.
    let address = |host| mesh.network().address(host).to_string();
    mesh.manifests().write(WORKLOADS_FILE, &apart.replace(&address(REVIEWS_V1.host), &address(6)))?;
    until("what is far serves when the near one is ejected", &measured, |_, v2, total| v2 == total).await?;
    mesh.check_running()
}

/// Waits until a hundred requests in a row, by way of the gateway and inside the mesh each, are answered as is wanted: by how many of
/// v1, of v2, and in all.
async fn until(what: &str, measured: &Measured, wanted: impl Fn(u64, u64, u64) -> bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        let window = measured.answers(Instant::now(), 100, |_| Ok(())).await.context(what.to_owned())?;
        let seen = PATHS.map(|path| window.sample(path));
        if seen.iter().all(|sample| wanted(sample.of("v1"), sample.of("v2"), sample.total)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{what}: {seen:?}");
    }
}

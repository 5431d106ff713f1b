//! A pod ends while real Envoys send to it, and they learn of it late.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    load::{Load, Plan},
    mesh::{CONVERGE, Mesh, REVIEWS_V2, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    tools::istiod_lite,
    wait,
};

use crate::mesh::{no_failures, start, turn};

/// How long after the pod's end began its endpoint stays.
const LATE: Duration = Duration::from_secs(1);
const WORKLOADS_FILE: &str = "workloads.yaml";

/// Ends a pod as the kubelet does: the hook comes first, the endpoint goes when Kubernetes gets to it, SIGTERM comes last.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_under_load_fails_no_request() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    mesh.apply(VIRTUAL_SERVICE_FILE, EVERY_POD, VIRTUAL_SERVICE).await?;
    let load = Load::start(&Plan::new(mesh.paths(), 40));
    wait_for(&load, "both pods to answer", |v2, total| v2 > total / 4 && v2 < total).await?;

    let ending = mesh.network().address(REVIEWS_V2.host).to_string();
    let mut hook = Command::new(istiod_lite()?).args(["agent", "drain", "--listen-address", &ending]).spawn()?;
    tokio::time::sleep(LATE).await;
    withdraw(&mesh, &ending)?;
    wait_for(&load, "nothing to go to the pod that ends", |v2, total| total > 10 && v2 == 0).await?;
    let status = tokio::task::block_in_place(|| hook.wait())?;
    ensure!(status.success(), "the hook: {status}");
    let agent = mesh.proxies().iter_mut().find(|proxy| proxy.pod().name == REVIEWS_V2.name);
    let ended = agent.map(|proxy| tokio::task::block_in_place(|| proxy.agent().end())).transpose()?;
    ensure!(ended.is_some_and(|status| status.success()), "the agent: {ended:?}");

    wait_for(&load, "the other pod to answer on", |v2, total| total > 10 && v2 == 0).await?;
    no_failures(&load.stop().await, &mut mesh)
}

/// Takes the endpoint of an address away.
fn withdraw(mesh: &Mesh, address: &str) -> Result<()> {
    let text = mesh.manifests().read(WORKLOADS_FILE)?;
    let endpoint = format!("- addresses: [{address}]\n  nodeName: laptop\n  conditions: {{ready: true}}");
    ensure!(text.contains(&endpoint), "no endpoint {address} in\n{text}");
    let gone = endpoint.replace("{ready: true}", "{ready: false, serving: true, terminating: true}");
    mesh.manifests().write(WORKLOADS_FILE, &text.replace(&endpoint, &gone))
}

/// Waits until `holds` of the answers of v2 and of all, to requests sent within half a second.
async fn wait_for(load: &Load, what: &str, holds: impl Fn(u64, u64) -> bool) -> Result<()> {
    wait::until(what, CONVERGE, || async {
        let since = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sample = load.since(since).sample("mesh");
        ensure!(holds(sample.of("v2"), sample.total), "{sample:?}");
        Ok(())
    })
    .await
}

const EVERY_POD: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local, shop.example.com]
  gateways: [shop/public, mesh]
  http:
  - route:
    - destination: {host: reviews.shop.svc.cluster.local, port: {number: 9080}}
    retries: {attempts: 0}
";

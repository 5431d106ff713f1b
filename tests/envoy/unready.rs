//! Endpoints whose probes fail while they serve: when none is ready all have traffic, else only those that are.

use std::time::Instant;

use anyhow::{Result, ensure};
use harness::{
    http_client::get_text,
    mesh::{CONVERGE, Mesh, PODS},
    wait,
};

use crate::mesh::{Measured, PATHS, no_failures, start, turn, without_subsets};

const WORKLOADS_FILE: &str = "workloads.yaml";
const READY: &str = "conditions: {ready: true}";
const UNREADY: &str = "conditions: {ready: false, serving: false, terminating: false}";
const ENDING: &str = "conditions: {ready: false, serving: true, terminating: true}";

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_all_unready_serve_until_one_is_ready() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    without_subsets(&mesh).await?;
    let workloads = mesh.manifests().read(WORKLOADS_FILE)?;
    let measured = Measured::start(&mesh, 100).await?;

    mesh.manifests().write(WORKLOADS_FILE, &workloads.replace(READY, UNREADY))?;
    wait_for_unready(&mut mesh, 2).await?;
    let seen = versions(&measured, &mut mesh).await?;
    ensure!(seen.iter().all(|(v1, v2)| *v1 > 0 && *v2 > 0), "both serve while none is ready: {seen:?}");

    // One is ready; at the addresses of two others nobody listens.
    let mut one = workloads.replacen(READY, UNREADY, 2).replacen(UNREADY, READY, 1).trim_end().to_owned();
    for nobody in [6, 7] {
        one += &format!("\n- addresses: [{}]\n  {UNREADY}", mesh.network().address(nobody));
    }
    mesh.manifests().write(WORKLOADS_FILE, &(one + "\n"))?;
    wait_for_unready(&mut mesh, 3).await?;
    let seen = versions(&measured, &mut mesh).await?;
    ensure!(seen.iter().all(|(v1, v2)| *v1 > 0 && *v2 == 0), "only the one that is ready serves: {seen:?}");

    // One that ends has no traffic, even when the other is not ready.
    let ending = workloads.replacen(READY, UNREADY, 1).replacen(READY, ENDING, 1);
    mesh.manifests().write(WORKLOADS_FILE, &ending)?;
    wait_for_unready(&mut mesh, 1).await?;
    let seen = versions(&measured, &mut mesh).await?;
    ensure!(seen.iter().all(|(v1, v2)| *v1 > 0 && *v2 == 0), "one that ends is left alone: {seen:?}");
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

/// Waits until the gateway and the client know so many unready endpoints of the HTTP port, and no more.
async fn wait_for_unready(mesh: &mut Mesh, wanted: usize) -> Result<()> {
    for at in 0..PODS.len() / 2 {
        let admin = mesh.proxies()[at].admin();
        wait::until("unready endpoints", CONVERGE, || async move {
            let text = get_text(admin.address(), "/clusters").await?;
            let of_port = text.lines().filter(|line| line.starts_with("outbound|9080||reviews.") && line.contains("/failed_eds_health"));
            let known = of_port.count();
            ensure!(known == wanted, "{known} are known, {wanted} should be");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// How many requests sent from now on v1 and v2 answer, by way of the gateway and inside the mesh.
async fn versions(measured: &Measured, mesh: &mut Mesh) -> Result<Vec<(u64, u64)>> {
    // What is under way may still go where it was sent.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let window = measured.answers(Instant::now(), 100, |window| no_failures(window, mesh)).await?;
    let seen = PATHS.map(|path| window.sample(path));
    Ok(seen.iter().map(|sample| (sample.of("v1"), sample.of("v2"))).collect())
}

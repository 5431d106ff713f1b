//! Things that break while traffic flows: the control plane, a proxy, the folder, a file.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    http_client::get_text,
    load::{Load, Plan},
    manifest::with_weights,
    mesh::{CONVERGE, Mesh, START, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    process::signal_process,
    wait,
};
use nix::sys::signal::Signal;

use crate::mesh::{Measured, judge_shares, no_failures, start, turn};

/// The index of the gateway and of the client among the mesh's proxies.
const GATEWAY: usize = 0;
const CLIENT: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_killed_and_comes_back() -> Result<()> {
    kill_and_come_back(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_killed_and_comes_back_state_of_the_world() -> Result<()> {
    kill_and_come_back(false).await
}

async fn kill_and_come_back(delta: bool) -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", delta).await?;
    let measured = Measured::start(&mesh, 200).await?;
    mesh.restart_control_plane().await?;
    wait_until_connected(&mesh, 4).await?;
    expect_only_warming_is_sent_again(&mesh).await?;
    shift_to(&mesh, 50).await?;
    judge_shares(&measured, &mut mesh, 300, 50, 2).await?;
    // The counter that was found empty does count.
    let metrics = get_text(mesh.monitoring(), "/metrics").await?;
    ensure!(metrics.contains(r#"istiod_lite_xds_resources_total{type="rds",reason="changed"}"#), "no counter of what is sent:\n{metrics}");
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_envoy_holds_nobody_else_back() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let gateway_only = Plan::new(mesh.paths().into_iter().take(1).collect(), 200);
    let load = Load::start(&gateway_only);
    let stopped = mesh.proxies()[CLIENT].envoy_id()?;
    signal_process(stopped, Signal::SIGSTOP)?;
    let began = Instant::now();
    let outcome = shift_gateway_alone(&mesh, &load).await;
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(began.elapsed())).await;
    signal_process(stopped, Signal::SIGCONT)?;
    outcome?;
    no_failures(&load.stop().await, &mut mesh)?;
    // It is behind by one difference, and catches up.
    let measured = Measured::start(&mesh, 200).await?;
    shift_to(&mesh, 50).await?;
    judge_shares(&measured, &mut mesh, 300, 50, 2).await?;
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_moves_away_and_back() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let measured = Measured::start(&mesh, 200).await?;
    let before = clusters(&mut mesh).await?;
    let (folder, aside) = (mesh.manifests().folder().to_path_buf(), mesh.home().join("aside"));
    fs::rename(&folder, &aside)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(clusters(&mut mesh).await? == before, "a folder that is gone must withdraw nothing");
    fs::rename(&aside, &folder)?;
    shift_to(&mesh, 50).await?;
    judge_shares(&measured, &mut mesh, 300, 50, 2).await?;
    ensure!(clusters(&mut mesh).await? == before, "a folder that is back must withdraw nothing");
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_takes_its_objects_and_only_them() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let measured = Measured::start(&mesh, 200).await?;
    let before = clusters(&mut mesh).await?;
    mesh.manifests().write("extra.yaml", EXTRA)?;
    let extra = "outbound|80||extra.shop.svc.cluster.local".to_owned();
    let with_extra = before.iter().cloned().chain([extra]).collect::<BTreeSet<_>>();
    wait_for_clusters(&mut mesh, &with_extra).await?;
    mesh.manifests().remove("extra.yaml")?;
    wait_for_clusters(&mut mesh, &before).await?;
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_finished_edit_keeps_the_last_good_objects() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    shift_to(&mesh, 100).await?;
    let measured = Measured::start(&mesh, 200).await?;
    let good = mesh.manifests().read(VIRTUAL_SERVICE_FILE)?;
    // Cut within a flow mapping: no YAML any more.
    let cut = good.rfind("host:").map_or(10, |at| at + 7);
    fs::write(mesh.manifests().path(VIRTUAL_SERVICE_FILE), &good[..cut])?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    judge_shares(&measured, &mut mesh, 300, 100, 4).await?;
    let named = get_text(mesh.monitoring(), "/debug/diagnostics").await?;
    ensure!(named.contains(VIRTUAL_SERVICE_FILE), "the broken file is not named: {named}");
    fs::write(mesh.manifests().path(VIRTUAL_SERVICE_FILE), &good)?;
    shift_to(&mesh, 50).await?;
    judge_shares(&measured, &mut mesh, 300, 50, 4).await?;
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

const EXTRA: &str = r"
apiVersion: v1
kind: Service
metadata: {name: extra, namespace: shop}
spec: {clusterIP: 10.96.7.99, selector: {app: extra}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

async fn shift_to(mesh: &Mesh, v2_percent: u32) -> Result<()> {
    let text = with_weights(&mesh.manifests().read(VIRTUAL_SERVICE_FILE)?, 100 - v2_percent, v2_percent);
    mesh.apply(VIRTUAL_SERVICE_FILE, &text, VIRTUAL_SERVICE).await?;
    Ok(())
}

/// Moves all to v2 while some proxy cannot ACK: the gateway follows in a second all the same.
async fn shift_gateway_alone(mesh: &Mesh, load: &Load) -> Result<()> {
    let text = with_weights(&mesh.manifests().read(VIRTUAL_SERVICE_FILE)?, 0, 100);
    mesh.manifests().write(VIRTUAL_SERVICE_FILE, &text)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let settled = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sample = load.since(settled).sample("gateway");
    ensure!(sample.total > 200 && sample.of("v2") == sample.total, "the gateway waited for the stopped Envoy: {sample:?}");
    Ok(())
}

async fn clusters(mesh: &mut Mesh) -> Result<BTreeSet<String>> {
    mesh.proxies()[GATEWAY].admin().clusters().await
}

async fn wait_for_clusters(mesh: &mut Mesh, wanted: &BTreeSet<String>) -> Result<()> {
    let admin = mesh.proxies()[GATEWAY].admin();
    wait::until("the gateway's clusters", CONVERGE, || async move {
        let now = admin.clusters().await?;
        let differing = now.symmetric_difference(wanted).collect::<Vec<_>>();
        ensure!(differing.is_empty(), "differ in {differing:?}");
        Ok(())
    })
    .await
}

async fn wait_until_connected(mesh: &Mesh, proxies: usize) -> Result<()> {
    let monitoring = mesh.monitoring();
    wait::until("every proxy to be connected again", START, || async move {
        let status: serde_json::Value = serde_json::from_str(&get_text(monitoring, "/debug/syncz").await?)?;
        let connected = status.as_array().map_or(0, Vec::len);
        ensure!(connected == proxies, "{connected} of {proxies} are");
        Ok(())
    })
    .await
}

/// Checks that a restarted control plane sends nothing but endpoints for warming: the proxies have all else.
async fn expect_only_warming_is_sent_again(mesh: &Mesh) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let metrics = get_text(mesh.monitoring(), "/metrics").await?;
    let sent = metrics.lines().filter(|line| line.starts_with("istiod_lite_xds_resources_total"));
    let wasted = sent.filter(|line| !line.contains(r#"reason="warming""#) && !line.ends_with(" 0")).collect::<Vec<_>>();
    ensure!(wasted.is_empty(), "sent again though unchanged:\n{}", wasted.join("\n"));
    Ok(())
}

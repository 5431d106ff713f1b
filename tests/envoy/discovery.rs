//! The control plane as whoever runs it meets it: when it is ready, what it shows, how it ends, and what it refuses.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    http_client::{get, get_text},
    launch::{self, PORT_MONITORING, PORT_PLAIN_HTTP},
    mesh::{START, wait_until_ready},
    wait,
};
use http::StatusCode;
use nix::sys::signal::Signal;

use crate::mesh::{options, start, turn};

/// Beyond `--shutdownDuration` (10 s) and the second for tasks to end: what a busy machine adds.
const SHUTDOWN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_its_folder_is_there_and_not_before() -> Result<()> {
    let _turn = turn().await?;
    let (options, network, home) = (options("1.40", true)?, Loopback::free()?, tempfile::tempdir()?);
    fs::create_dir(home.path().join("logs"))?;
    launch::ceremony(&options.istiod_lite, home.path())?;
    let mut process = launch::control_plane(&options, home.path(), network.address(1))?;
    let http = network.socket(1, PORT_PLAIN_HTTP);
    let unready = wait::until("an answer of /ready", START, || get(http, "istiod", "/ready")).await?;
    ensure!(unready.status == StatusCode::SERVICE_UNAVAILABLE, "ready without a folder: {}", unready.status);
    ensure!(unready.text().contains("sources synced"), "it does not say what it waits for: {}", unready.text());
    fs::create_dir(home.path().join("config"))?;
    fs::write(home.path().join("config/shop.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")?;
    wait_until_ready(&mut process, http, "/ready").await?;
    expect_istiod_pages(network.socket(1, PORT_MONITORING)).await
}

async fn expect_istiod_pages(monitoring: SocketAddr) -> Result<()> {
    let version = get_text(monitoring, "/version").await?;
    ensure!(version == istiod_lite::version::line(), "/version: {version}");
    let metrics = get_text(monitoring, "/metrics").await?;
    for name in ["pilot_k8s_cfg_events", "citadel_server_csr_count", "citadel_server_root_cert_expiry_timestamp"] {
        ensure!(metrics.lines().any(|line| line.contains(name)), "{name} is not among the metrics:\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_its_streams_on_sigterm_and_the_proxies_go_on() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let http = mesh.network().socket(1, PORT_PLAIN_HTTP);
    let began = Instant::now();
    mesh.control_plane().signal(Signal::SIGTERM)?;
    let status = wait::until("the control plane's end", SHUTDOWN, || {
        let ended = mesh.control_plane().ended();
        async move { ended?.context("still running") }
    })
    .await?;
    ensure!(status.code() == Some(0), "{status}");
    let log = mesh.control_plane().log();
    ensure!(log.contains("draining") && !log.contains("did not end in time"), "no drain after {:?}:\n{log}", began.elapsed());
    ensure!(get(http, "istiod", "/ready").await.is_err(), "/ready is still served");
    for path in mesh.paths() {
        let answer = get(path.target, &path.host, "/").await?;
        ensure!(answer.status == StatusCode::OK, "{} without a control plane: {}", path.name, answer.status);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_on_sigterm_even_before_it_is_ready() -> Result<()> {
    let _turn = turn().await?;
    let (options, network, home) = (options("1.40", true)?, Loopback::free()?, tempfile::tempdir()?);
    fs::create_dir(home.path().join("logs"))?;
    launch::ceremony(&options.istiod_lite, home.path())?;
    let mut process = launch::control_plane(&options, home.path(), network.address(1))?;
    let http = network.socket(1, PORT_PLAIN_HTTP);
    wait::until("an answer of /ready", START, || get(http, "istiod", "/ready")).await?;
    process.signal(Signal::SIGTERM)?;
    let status = wait::until("the control plane's end", SHUTDOWN, || {
        let ended = process.ended();
        async move { ended?.context("still running") }
    })
    .await?;
    ensure!(status.code() == Some(0), "{status}: {}", process.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_start_beside_a_roots_key() -> Result<()> {
    let _turn = turn().await?;
    let (options, home) = (options("1.40", true)?, tempfile::tempdir()?);
    launch::ceremony(&options.istiod_lite, home.path())?;
    let root = home.path().join("root");
    fs::write(home.path().join("passphrase"), "not a secret\n")?;
    let ceremony = Command::new(&options.istiod_lite)
        .args(["ca", "root", "--out"])
        .arg(&root)
        .arg("--passphrase-file")
        .arg(home.path().join("passphrase"))
        .output()?;
    ensure!(ceremony.status.success(), "{}", String::from_utf8_lossy(&ceremony.stderr));
    fs::copy(root.join("root-key.pem"), home.path().join("ca/root-key.pem"))?;
    let network = Loopback::free()?;
    fs::create_dir(home.path().join("logs"))?;
    let mut process = launch::control_plane(&options, home.path(), network.address(1))?;
    let status = wait::until("the refusal", START, || {
        let ended = process.ended();
        async move { ended?.context("it runs") }
    })
    .await?;
    let log = process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("root-key.pem"), "the message does not name the key: {log}");
    Ok(())
}

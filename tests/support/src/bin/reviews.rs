//! The workload of the cluster's demo as a program: what the image `reviews` runs.
//!
//! ```text
//! reviews serve VERSION      HTTP on 9080, TCP echo on 9000, until SIGTERM; with `failing` after it, as a bad release: 500 to all
//! reviews get URL            one GET, printed whole; exit status 1 unless it is answered with 200
//! reviews turn bad|good      tells the server in the same container to misbehave, or no longer
//! reviews turn unready|ready tells it to fail its readiness probe while it serves, or no longer
//! ```

use std::{env, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    http_client::get,
    process::signal_process,
    workload::{ECHO_PORT, HTTP_PORT, Workload},
};
use nix::sys::signal::Signal;
use tokio::{
    net::lookup_host,
    signal::unix::{SignalKind, signal},
};

/// The server's process in its container.
const SERVER: u32 = 1;
/// How long answers under way may take after SIGTERM.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    let done = match arguments.as_slice() {
        ["serve", version] => serve(version, false).await,
        ["serve", version, "failing"] => serve(version, true).await,
        ["get", url] => ask(url).await,
        ["turn", "bad"] => signal_process(SERVER, Signal::SIGUSR1),
        ["turn", "good"] => signal_process(SERVER, Signal::SIGUSR2),
        ["turn", "unready"] => signal_process(SERVER, Signal::SIGHUP),
        ["turn", "ready"] => signal_process(SERVER, Signal::SIGWINCH),
        _ => Err(anyhow::anyhow!("usage: reviews serve VERSION [failing] | get URL | turn bad|good|unready|ready")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reviews: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(version: &str, failing: bool) -> Result<()> {
    let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let workload = Workload::start(version, everywhere(HTTP_PORT), Some(everywhere(ECHO_PORT))).await?;
    workload.fail_requests(failing);
    let (mut bad, mut good) = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
    let (mut unready, mut ready) = (signal(SignalKind::hangup())?, signal(SignalKind::window_change())?);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            _ = bad.recv() => workload.misbehave(true),
            _ = good.recv() => workload.misbehave(false),
            _ = unready.recv() => workload.fail_probes(true),
            _ = ready.recv() => workload.fail_probes(false),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => return Ok(()),
        }
    }
    tokio::time::sleep(LAST_ANSWERS).await;
    Ok(())
}

async fn ask(url: &str) -> Result<()> {
    let Some((host, path)) = url.strip_prefix("http://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) else {
        bail!("{url}: only http:// is spoken here");
    };
    let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let target = lookup_host(&with_port).await.with_context(|| host.to_owned())?.next().context("no address")?;
    let response = get(target, host, &format!("/{path}")).await?;
    println!("{}", response.status);
    for (name, value) in &response.headers {
        println!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    print!("\n{}", response.text());
    ensure!(response.status == http::StatusCode::OK, "status {}", response.status);
    Ok(())
}

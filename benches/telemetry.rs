//! What Istio's metrics cost a stock Envoy: CPU for each request, memory, and bytes of configuration, without them and with them.
//!
//! An own `main` instead of criterion: what is measured is not this process. Two meshes of `manifests/folder-demo` stand side by side, one
//! of which reports; they take turns under the same load, so that what else the machine does meets both. CPU is what the kernel counted
//! for each Envoy, its memory what Envoy says that it has allocated and what the kernel counts as resident.
//!
//! `ROUNDS` sets how often each mesh has its turn (8), of ten seconds.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench ends when something fails")]

use std::{env, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    http_client::get_text,
    load::{Load, Plan},
    mesh::{CLIENT, GATEWAY, Mesh, Options, Pod, REVIEWS_V1},
    tools,
};

/// Requests a second by way of the gateway, and as many through the client's sidecar.
const RATE: u32 = 200;
const TURN: Duration = Duration::from_secs(10);
/// Those that have something to do: all requests go to v1.
const BUSY: [Pod; 3] = [GATEWAY, CLIENT, REVIEWS_V1];

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs benches too, to see that they build.
    if !env::args().any(|argument| argument == "--bench") {
        println!("not measured: `cargo bench` does");
        return Ok(());
    }
    let rounds = env::var("ROUNDS").ok().map_or(Ok(8), |text| text.parse::<usize>())?;
    let mut silent = start("").await?;
    let mut reporting = start("defaultProviders: {metrics: [prometheus]}\n").await?;
    println!("bytes of configuration sent to 4 proxies: {} without metrics, {} with them", sent(&silent).await?, sent(&reporting).await?);
    let mut ratios = [const { Vec::new() }; BUSY.len()];
    for round in 0..=rounds {
        let (without, with) = (turn(&mut silent).await?, turn(&mut reporting).await?);
        // The first turn opens connections and fills caches.
        if round > 0 {
            for (ratios, (without, with)) in ratios.iter_mut().zip(without.into_iter().zip(with)) {
                ratios.push((without, with));
            }
        }
    }
    for (pod, measured) in BUSY.iter().zip(ratios) {
        let (without, with): (Vec<f64>, Vec<f64>) = measured.iter().copied().unzip();
        let ratio = measured.iter().map(|(without, with)| with / without).collect();
        println!(
            "{}: ms of CPU for 1,000 requests {} without metrics, {} with them; ratio within a round {}",
            pod.name,
            spread(without),
            spread(with),
            spread(ratio)
        );
    }
    for pod in BUSY {
        println!("{}: memory without {}, with {}", pod.name, memory(&mut silent, pod).await?, memory(&mut reporting, pod).await?);
    }
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        println!("load of the machine: {}", load.trim());
    }
    Ok(())
}

async fn start(mesh_config: &str) -> Result<Mesh> {
    let options = Options {
        istiod_lite: env!("CARGO_BIN_EXE_istiod-lite").into(),
        envoy: tools::envoy("1.40")?,
        delta: true,
        debounce: Some("10ms"),
        certificate_ttl: None,
        listener_drain: None,
    };
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), mesh_config)?;
    let (_, path) = file.keep()?;
    Mesh::start_with(options, Loopback::free()?, vec!["--meshConfig".into(), path.into()]).await
}

/// Returns the bytes of resources that the control plane has sent.
async fn sent(mesh: &Mesh) -> Result<u64> {
    let text = get_text(mesh.monitoring(), "/metrics").await?;
    let values = text.lines().filter(|line| line.starts_with("istiod_lite_xds_bytes_total{")).filter_map(|line| line.rsplit_once(' '));
    Ok(values.filter_map(|(_, value)| value.parse::<u64>().ok()).sum())
}

/// Returns the milliseconds of CPU that each of the busy Envoys took for 1,000 requests.
async fn turn(mesh: &mut Mesh) -> Result<Vec<f64>> {
    let before = cpu(mesh)?;
    let load = Load::start(&Plan::new(mesh.paths(), RATE));
    tokio::time::sleep(TURN).await;
    let window = load.stop().await;
    ensure!(window.failures().is_empty(), "{:?}", window.failures().first());
    let requests = ["gateway", "mesh"].map(|path| window.sample(path).total as f64);
    let passed = [requests[0], requests[1], requests[0] + requests[1]];
    let spent = cpu(mesh)?.into_iter().zip(before).map(|(after, before)| after - before);
    Ok(spent.zip(passed).map(|(milliseconds, requests)| milliseconds * 1000.0 / requests).collect())
}

/// Returns the milliseconds that all threads of each of the busy Envoys have run.
fn cpu(mesh: &mut Mesh) -> Result<Vec<f64>> {
    BUSY.iter()
        .map(|pod| {
            let mut nanoseconds = 0.0;
            for task in fs::read_dir(format!("/proc/{}/task", envoy(mesh, *pod)?))? {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                nanoseconds += text.split_ascii_whitespace().next().and_then(|ran| ran.parse::<f64>().ok()).context("schedstat")?;
            }
            Ok(nanoseconds / 1e6)
        })
        .collect()
}

async fn memory(mesh: &mut Mesh, pod: Pod) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", envoy(mesh, pod)?))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?.trim().to_owned();
    let proxy = mesh.proxies().iter().find(|proxy| proxy.pod().name == pod.name).context("no such proxy")?;
    let allocated = proxy.admin().stats().await?.get("server.memory_allocated").copied().unwrap_or_default();
    Ok(format!("{} kB allocated, {resident} resident", allocated / 1024))
}

fn envoy(mesh: &mut Mesh, pod: Pod) -> Result<u32> {
    mesh.proxies().iter().find(|proxy| proxy.pod().name == pod.name).context("no such proxy")?.envoy_id()
}

/// Returns the median, the least and the most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get((values.len().saturating_sub(1)) * share / 2).copied().unwrap_or_default();
    format!("{:.2} ({:.2} to {:.2})", at(1), at(0), at(2))
}

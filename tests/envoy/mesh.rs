//! A mesh of processes for one test; the tests of this file take turns, for they all measure.

use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Error, Result, ensure};
use harness::{
    address::Loopback,
    counters::{Counters, expect_no_failures},
    load::{Load, Plan, Window},
    mesh::{Mesh, Options, Proxy, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    process::{tail, waited_for_cpu},
    statistics::{binomial_p_value, share_agrees},
    tools,
};

/// By way of the gateway, and inside the mesh.
pub(crate) const PATHS: [&str; 2] = ["gateway", "mesh"];

/// The longest that a sample of answers may take.
const LONGEST_SAMPLE: Duration = Duration::from_secs(60);

/// Waits for this test's turn; hold what it gives until the end. A file's lock, not a mutex: some runners start a
/// process for each test.
pub(crate) async fn turn() -> Result<File> {
    let locked = tokio::task::spawn_blocking(|| -> io::Result<File> {
        let file = File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/envoy-turn"))?;
        file.lock().map(|()| file)
    });
    Ok(locked.await??)
}

pub(crate) fn options(envoy_minor: &str, delta: bool) -> Result<Options> {
    Ok(Options {
        istiod_lite: PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite")),
        envoy: tools::envoy(envoy_minor)?,
        delta,
        debounce: Some("10ms"),
        certificate_ttl: None,
        listener_drain: None,
    })
}

/// Starts the mesh of `manifests/folder-demo`, with changes gathered for 10 ms.
pub(crate) async fn start(envoy_minor: &str, delta: bool) -> Result<Mesh> {
    Mesh::start(options(envoy_minor, delta)?, Loopback::free()?).await
}

/// Lets connections between Envoys end after ten requests. Otherwise they live for ever, and nobody looks at certificates again.
pub(crate) fn few_requests(mesh: &Mesh) -> Result<()> {
    const ROUTING: &str = "routing.yaml";
    const POLICY: &str = "\n  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 10}}}\n  subsets:";
    let routing = mesh.manifests().read(ROUTING)?;
    mesh.manifests().write(ROUTING, &routing.replacen("\n  subsets:", POLICY, 1))
}

/// Has both versions of the service answer as one.
pub(crate) async fn without_subsets(mesh: &Mesh) -> Result<()> {
    let text = mesh.manifests().read(VIRTUAL_SERVICE_FILE)?;
    let all = text.replace(", subset: v1", "").replace(", subset: v2", "");
    mesh.apply(VIRTUAL_SERVICE_FILE, &all, VIRTUAL_SERVICE).await.map(drop)
}

/// Load on both ways into the mesh, with the Envoys' counters from before it.
pub(crate) struct Measured {
    pub(crate) load: Load,
    before: Vec<Counters>,
}

impl Measured {
    /// Starts to send `rate` requests per second on each path.
    pub(crate) async fn start(mesh: &Mesh, rate: u32) -> Result<Self> {
        let mut plan = Plan::new(mesh.paths(), rate);
        plan.tcp = Some((mesh.tcp(), 2));
        Ok(Self { before: mesh.counters().await?, load: Load::start(&plan) })
    }

    /// Waits until each path has `sample` answers to requests sent since then, and all that were sent since pass a check.
    pub(crate) async fn answers(&self, since: Instant, sample: u64, mut check: impl FnMut(&Window) -> Result<()>) -> Result<Window> {
        let begun = Instant::now();
        loop {
            let window = self.load.since(since);
            check(&window)?;
            if PATHS.iter().all(|path| window.sample(path).total >= sample) {
                return Ok(window);
            }
            ensure!(begun.elapsed() < LONGEST_SAMPLE, "no {sample} answers within {LONGEST_SAMPLE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the load, and fails unless every request was answered and the Envoys saw no failure either.
    pub(crate) async fn expect_no_failures(self, mesh: &mut Mesh) -> Result<Window> {
        let finished = self.finish(mesh).await?;
        finished.judge(mesh)?;
        Ok(finished.window)
    }

    /// Stops the load.
    pub(crate) async fn finish(self, mesh: &mut Mesh) -> Result<Finished> {
        // Before the load stops: what it held open would end under the Envoys' eyes.
        let counted = expect_no_failures(&self.before, &mesh.counters().await?).map_err(|error| error.to_string());
        let window = self.load.stop().await;
        mesh.check_running()?;
        Ok(Finished { window, counted })
    }
}

/// What a measurement gave: as the clients saw it and as the Envoys counted it.
pub(crate) struct Finished {
    pub(crate) window: Window,
    counted: Result<(), String>,
}

impl Finished {
    /// Fails unless every request was answered and the Envoys saw no failure either.
    pub(crate) fn judge(&self, mesh: &mut Mesh) -> Result<()> {
        no_failures(&self.window, mesh)?;
        self.counted.clone().map_err(Error::msg)
    }
}

/// Fails with the first failures, if there are any.
pub(crate) fn no_failures(window: &Window, mesh: &mut Mesh) -> Result<()> {
    let failures = window.failures();
    let first = failures.iter().take(8).map(|failure| format!("\n  {failure}")).collect::<String>();
    let total = window.outcomes().len();
    ensure!(
        failures.is_empty(),
        "{} of {total} requests failed:{first}\nwaited for a CPU, as a share of running and waiting: {}\ncontrol plane:\n{}",
        failures.len(),
        starvation(mesh),
        tail(&mesh.control_plane().log(), 10)
    );
    Ok(())
}

/// Tells a stall from a machine that is too busy: how long each Envoy's workers stood in the kernel's run queue.
fn starvation(mesh: &mut Mesh) -> String {
    let share = |proxy: &Proxy| {
        let waited = proxy.envoy_id().and_then(waited_for_cpu).map_or("unknown".to_owned(), |share| format!("{:.0} %", share * 100.0));
        format!("{} {waited}", proxy.pod().name)
    };
    mesh.proxies().iter().map(share).collect::<Vec<_>>().join(", ")
}

/// Waits until each path has `sample` answers to requests sent from now on, and judges the share of v2 on each.
pub(crate) async fn judge_shares(measured: &Measured, mesh: &mut Mesh, sample: u64, v2_percent: u32, tests: usize) -> Result<()> {
    let window = measured.answers(Instant::now(), sample, |window| no_failures(window, mesh)).await?;
    for path in PATHS {
        let seen = window.sample(path);
        let p_value = binomial_p_value(seen.of("v2"), seen.total, f64::from(v2_percent) / 100.0);
        ensure!(share_agrees(p_value, tests), "{path}: {} of {} on v2, wanted {v2_percent} % (p = {p_value:e})", seen.of("v2"), seen.total);
    }
    Ok(())
}

//! The one cluster of this program, brought up by the first test that needs it.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    canary::Stage as _,
    cluster::{Cluster, images, shop, shop::Shop},
    counters::{Counters, expect_no_failures},
    load::Load,
    process::run,
    said::say,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::Mutex};

/// Where the cluster is, if it is up.
pub(crate) struct Theatre {
    runtime: Runtime,
    cluster: Mutex<Option<Stage>>,
    /// The machine before any of this.
    before: Machine,
}

struct Stage {
    cluster: Cluster,
    _images: TempDir,
}

impl Theatre {
    pub(crate) fn new(runtime: Runtime) -> Result<Self> {
        Ok(Self { runtime, cluster: Mutex::new(None), before: Machine::look()? })
    }

    /// Runs a test on the cluster with the mesh of `manifests/demo`.
    pub(crate) fn play(&self, test: impl AsyncFnOnce(&Cluster) -> Result<()>) -> Result<()> {
        self.runtime.block_on(async {
            let mut stage = self.cluster.lock().await;
            if stage.is_none() {
                *stage = Some(open().await?);
            }
            let cluster = &stage.as_ref().context("it was just opened")?.cluster;
            test(cluster).await
        })
    }

    /// Ends the cluster, and holds the machine against what it was before.
    pub(crate) fn end(&self) -> Result<()> {
        self.runtime.block_on(async {
            let Some(stage) = self.cluster.lock().await.take() else { return Ok(()) };
            let init = stage.cluster.init();
            stage.cluster.end().await?;
            ensure!(!fs::exists(format!("/proc/{init}"))?, "the node's first process is still there");
            let after = Machine::look()?;
            for (what, now) in &after.0 {
                ensure!(self.before.0.get(what) == Some(now), "{what} is not what it was:\n{now}\nbefore:\n{:?}", self.before.0.get(what));
            }
            Ok(())
        })
    }

    /// Ends what a filtered run left.
    pub(crate) fn close(&self) {
        if let Err(error) = self.end() {
            eprintln!("cluster: {error:#}");
        }
    }
}

/// Makes the cluster, with the mesh installed. Says how long each step took, which CI prints.
async fn open() -> Result<Stage> {
    let began = Instant::now();
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    images::make(&images)?;
    let made = began.elapsed();
    let cluster = Cluster::start(&images).await?;
    let up = began.elapsed();
    // Imported by now; they are large.
    fs::remove_dir_all(&images)?;
    shop::install(&cluster).await?;
    say(&format!(
        "cluster: images {:.1} s, node {:.1} s, mesh {:.1} s",
        made.as_secs_f64(),
        (up - made).as_secs_f64(),
        (began.elapsed() - up).as_secs_f64()
    ));
    Ok(Stage { cluster, _images: folder })
}

/// What a careless box would change of the machine. Only that is looked at: others may be at work here, too.
struct Machine(BTreeMap<&'static str, String>);

impl Machine {
    fn look() -> Result<Self> {
        let knobs = "vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops net.ipv4.ip_forward";
        let seen = [
            ("knobs", format!("sysctl {knobs}")),
            ("iptables", "iptables-save | grep -E 'KUBE|CNI'".to_owned()),
            ("interfaces", "ip -o link | grep -E 'cni0|veth'".to_owned()),
            ("addresses", "ip -o address | grep 10.244".to_owned()),
            ("cgroups", "find /sys/fs/cgroup -name 'istiod-lite-box*'".to_owned()),
            ("processes", "pgrep -x 'kubelet|containerd|containerd-shim.*|kube-proxy'".to_owned()),
            ("mounts", "grep -E 'kubelet|containerd|/box|cni' /proc/self/mounts".to_owned()),
        ];
        let look = |(what, command): (&'static str, String)| Ok((what, run("sh", &["-c", &format!("{command} || true")])?));
        seen.into_iter().map(look).collect::<Result<_>>().map(Self)
    }
}

/// Load on both ways into the mesh, with what the Envoys had counted before.
pub(crate) struct Measured {
    load: Load,
    began: Instant,
    before: Vec<Counters>,
    reached: Vec<(Duration, &'static str)>,
}

impl Measured {
    /// Starts to send `rate` requests per second on each way.
    pub(crate) async fn start(shop: &Shop<'_>, rate: u32) -> Result<Self> {
        Ok(Self { before: shop.counters().await?, began: Instant::now(), load: shop.load(rate, false), reached: Vec::new() })
    }

    /// Says how far the test is, to whoever reads of a failure.
    pub(crate) fn reached(&mut self, what: &'static str) {
        self.reached.push((self.began.elapsed(), what));
    }

    /// Stops the load, and fails unless every request was answered and the Envoys where load enters saw no failure either.
    pub(crate) async fn expect_no_failures(self, shop: &Shop<'_>) -> Result<()> {
        let Self { load, began, before, reached } = self;
        let counted = expect_no_failures(&before, &shop.entrances().await?);
        let window = load.stop().await;
        let (failures, total) = (window.failures(), window.outcomes().len());
        if failures.is_empty() && counted.is_ok() {
            ensure!(total > 100, "only {total} requests were sent");
            return Ok(());
        }
        let first = failures.iter().take(8).map(|failure| (failure.sent.duration_since(began), failure.to_string()));
        let reached = reached.into_iter().map(|(after, what)| (after, format!("-- {what}")));
        let mut story = first.chain(reached).collect::<Vec<_>>();
        story.sort();
        let story = story.iter().map(|(after, what)| format!("\n  {:.2} s {what}", after.as_secs_f64())).collect::<String>();
        let (counted, probes) = (everywhere(&before, shop, counted).await, shop.circumstances().await);
        bail!("{} of {total} requests failed:{story}\n{counted}\n{probes}", failures.len())
    }
}

/// Returns what every Envoy counted, also behind the entrances: it tells at which hop requests failed. Read again, as the
/// last of them may have failed after the verdict.
async fn everywhere(before: &[Counters], shop: &Shop<'_>, verdict: Result<()>) -> String {
    let told = |counted: Result<()>| counted.err().map_or_else(|| "no Envoy counted a failure".to_owned(), |error| format!("{error:#}"));
    match shop.counters().await {
        Ok(after) => told(expect_no_failures(before, &after)),
        Err(error) => format!("{}\n(only where load enters: {error:#})", told(verdict)),
    }
}

//! The one cluster of this program, brought up by the first test that needs it.

use std::{collections::BTreeMap, fs, time::Instant};

use anyhow::{Context, Result, ensure};
use harness::{
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

/// The cluster with the mesh installed. How long each took is said: CI prints it.
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

/// Load on both ways into the mesh, with the counters of the Envoys where it enters.
pub(crate) struct Measured {
    load: Load,
    before: Vec<Counters>,
}

impl Measured {
    /// `rate` requests per second on each way.
    pub(crate) async fn start(shop: &Shop<'_>, rate: u32) -> Result<Self> {
        Ok(Self { before: shop.entrances().await?, load: shop.load(rate, false) })
    }

    /// Stops, and fails unless every request was answered and the Envoys saw no failure either.
    pub(crate) async fn expect_no_failures(self, shop: &Shop<'_>) -> Result<()> {
        let counted = expect_no_failures(&self.before, &shop.entrances().await?);
        let window = self.load.stop().await;
        let failures = window.failures();
        let first = failures.iter().take(8).map(|failure| format!("\n  {failure}")).collect::<String>();
        let total = window.outcomes().len();
        let also = counted.as_ref().err().map(ToString::to_string).unwrap_or_default();
        ensure!(failures.is_empty(), "{} of {total} requests failed:{first}\n{also}", failures.len());
        ensure!(total > 100, "only {total} requests were sent");
        counted
    }
}

//! The demo on a real cluster: a canary shifted through injected sidecars and a gateway, by `kubectl apply` and `kubectl
//! patch` alone. `make demo-cluster` builds and runs it as root; with `ARGS="--keep"` the cluster stays until Ctrl-C.

use std::{env, process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use harness::{
    canary,
    cluster::{
        Cluster, images, missing,
        shop::{self, Shop},
    },
};

#[tokio::main]
async fn main() -> ExitCode {
    let keep = match keep(env::args().skip(1)) {
        Ok(keep) => keep,
        Err(error) => {
            eprintln!("demo-cluster: {error}");
            return ExitCode::FAILURE;
        }
    };
    let shown = tokio::select! {
        // First what is shown: with --keep it ends by the same signal, and has a result to tell.
        biased;
        shown = show(keep) => shown,
        _ = tokio::signal::ctrl_c() => { eprintln!("\nstopped"); return ExitCode::FAILURE }
    };
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn keep(given: impl Iterator<Item = String>) -> Result<bool> {
    let mut keep = false;
    for argument in given {
        match argument.as_str() {
            "--keep" => keep = true,
            other => bail!("no such argument: {other} (--keep leaves the cluster running)"),
        }
    }
    Ok(keep)
}

/// Shows the demo, and returns whether every request was answered and every share was right.
async fn show(keep: bool) -> Result<bool> {
    if let Some(reason) = missing() {
        bail!("{reason}");
    }
    let began = Instant::now();
    let say = |what: &str| println!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
    println!("istiod-lite demo on a cluster: a real node with real pods, mTLS STRICT");
    let folder = tempfile::tempdir()?;
    images::make(folder.path().join("images").as_path())?;
    say("images made");
    let cluster = Cluster::start(&folder.path().join("images")).await?;
    say("Kubernetes is up");
    shop::install(&cluster).await?;
    say("kubectl apply --server-side -k manifests/crds, base, demo: all available");
    let mut shop = Shop::find(&cluster).await?;
    let passed = canary::run(&mut shop).await?;
    if keep {
        print_how(&cluster);
        tokio::signal::ctrl_c().await?;
        println!();
    }
    drop(shop);
    cluster.end().await?;
    Ok(passed)
}

fn print_how(cluster: &Cluster) {
    println!("\nstill running; Ctrl-C ends it. In another terminal, as root:");
    println!("  alias k='{}'", cluster.shell());
    println!("  k get pods -A");
    println!("  k -n shop exec deploy/client -c client -- /reviews get http://reviews:9080/");
    println!("  k -n shop edit virtualservice reviews");
    println!("  logs of the node: {}", cluster.logs().display());
}

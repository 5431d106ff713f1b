//! The demo: a canary shifted through real Envoys while load runs, only the VirtualService's file being edited.
//! `make demo` builds and runs it; `make demo ARGS="--keep"` leaves the mesh running afterwards. With `--judge prometheus`, what the
//! proxies report decides whether a release goes on or back.

use std::{env, process::ExitCode};

use anyhow::{Result, bail};
use harness::{
    address::Loopback,
    canary,
    mesh::{CLIENT, GATEWAY, MESH_HOST, Mesh, Options, PODS, PUBLIC_HOST},
    tools,
};

#[tokio::main]
async fn main() -> ExitCode {
    let shown = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) => tokio::select! {
            // First what is shown: with --keep it ends by the same signal, and has a result to tell.
            biased;
            shown = show(arguments) => shown,
            _ = tokio::signal::ctrl_c() => { eprintln!("\nstopped"); return ExitCode::FAILURE }
        },
        Err(error) => Err(error),
    };
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    keep: bool,
    delta: bool,
    /// Whether Prometheus judges the canary.
    judged: bool,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self { keep: false, delta: true, judged: false };
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--keep" => arguments.keep = true,
                "--sotw" => arguments.delta = false,
                "--judge" => match given.next().as_deref() {
                    Some("prometheus") => arguments.judged = true,
                    other => bail!("--judge {}: only prometheus can judge", other.unwrap_or_default()),
                },
                "--help" | "-h" => bail!(
                    "--keep leaves the mesh running; --sotw uses state-of-the-world xDS instead of delta; --judge prometheus promotes a \
                     good release and rolls back a bad one by what proxies report"
                ),
                other => bail!("no such argument: {other} (--keep, --sotw, --judge prometheus)"),
            }
        }
        Ok(arguments)
    }
}

/// Shows the demo, and returns whether every request was answered and every share was right.
async fn show(arguments: Arguments) -> Result<bool> {
    let envoy = tools::envoy("1.40")?;
    let protocol = if arguments.delta { "delta" } else { "state of the world" };
    println!("istiod-lite demo: Envoy {}, {protocol} xDS, mTLS STRICT, {} proxies", tools::version_of(&envoy)?, PODS.len());
    let options = Options {
        istiod_lite: tools::istiod_lite()?,
        envoy,
        delta: arguments.delta,
        debounce: None,
        certificate_ttl: None,
        listener_drain: None,
    };
    let network = Loopback::of_the_demo()?;
    let (mut mesh, passed);
    if arguments.judged {
        mesh = Mesh::start_reporting(options, network).await?;
        passed = canary::judged::run(&mut mesh).await?;
    } else {
        mesh = Mesh::start(options, network).await?;
        passed = canary::run(&mut mesh).await?;
    }
    if arguments.keep {
        print_addresses(&mut mesh);
        tokio::signal::ctrl_c().await?;
        println!();
    }
    Ok(passed)
}

fn print_addresses(mesh: &mut Mesh) {
    let network = mesh.network();
    println!("\nstill running; Ctrl-C ends it");
    println!("  gateway        curl -H 'Host: {PUBLIC_HOST}' http://{}/", network.socket(GATEWAY.host, 8080));
    println!("  client sidecar curl -H 'Host: {MESH_HOST}' http://{}/", network.socket(CLIENT.host, 9080));
    println!("  control plane  http://{0}/metrics  http://{0}/debug/syncz", mesh.monitoring());
    println!("  edit           {}", mesh.manifests().folder().display());
    println!("  logs           {}", mesh.home().join("logs").display());
    for proxy in mesh.proxies() {
        println!("  Envoy admin    http://{}/  ({})", proxy.admin().address(), proxy.pod().name);
    }
}

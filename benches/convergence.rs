//! From an edited file to the last ACK: how long 20 (or 21) real Envoys take to follow a change: of a weight in the demo's mesh, and of an
//! AuthorizationPolicy where there are 1,000 services and 500 policies of others besides.
//!
//! An own `main` instead of criterion: what counts is the tail over single changes, and criterion gives means of batches
//! and warms up by repeating, which here would only queue changes up. Each change waits for the last one's last ACK.
//!
//! The mesh is `manifests/folder-demo` with 18 more client sidecars, all of them stock Envoys behind `istiod-lite agent` (TLS on
//! 15012, delta xDS): the gateway and 19 clients hold the route and are awaited. The two `reviews` sidecars do not see it.
//! The times are those of `/debug/convergence`: seen is when the control plane took the edited file in, published when the
//! new views were handed to the sessions. What the debounce (stated below) waits is taken off.
//! A policy of the whole namespace is changed: all 19 clients and both `reviews` sidecars await it.
//!
//! `CHANGES` sets how many changes of each are made (200).

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench ends when something fails")]

use std::{
    env, fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    convergence::unix_millis,
    http_client::get_text,
    launch,
    manifest::with_weights,
    mesh::{CLIENT, Mesh, Options, Pod, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE, wait_until_ready},
    process::Process,
    tools,
};
use serde_json::Value;

const DEBOUNCE: Duration = Duration::from_millis(10);
const MORE_CLIENTS: u8 = 18;
const SERVICES: usize = 1000;
const POLICIES: usize = 500;

/// What is changed: a file, and the object in it.
#[derive(Clone, Copy)]
struct Changed {
    file: &'static str,
    object: &'static str,
    /// How many Envoys it concerns.
    proxies: u64,
}

const WEIGHTS: Changed = Changed { file: VIRTUAL_SERVICE_FILE, object: VIRTUAL_SERVICE, proxies: 20 };
const POLICY: Changed = Changed { file: "policy.yaml", object: "AuthorizationPolicy/shop/everybody", proxies: 21 };

/// One change, in microseconds.
struct Change {
    /// From the edit to the control plane's seeing it: the file watcher.
    watched: f64,
    /// From seeing to publishing, the debounce taken off.
    made: f64,
    /// From publishing to the last ACK.
    acked: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs benches too, to see that they build.
    if !env::args().any(|argument| argument == "--bench") {
        println!("not measured: `cargo bench` does");
        return Ok(());
    }
    let changes = env::var("CHANGES").ok().map_or(Ok(200), |text| text.parse::<usize>())?;
    let options = Options {
        istiod_lite: env!("CARGO_BIN_EXE_istiod-lite").into(),
        envoy: tools::envoy("1.40")?,
        delta: true,
        debounce: Some("10ms"),
        certificate_ttl: None,
        listener_drain: None,
    };
    let mesh = Mesh::start(options.clone(), Loopback::free()?).await?;
    let _clients = more_clients(&mesh, &options).await?;
    let text = mesh.manifests().read(VIRTUAL_SERVICE_FILE)?;
    let weights = measure(&mesh, WEIGHTS, changes, |v2| with_weights(&text, 100 - v2, v2)).await?;
    mesh.manifests().write("others.yaml", "")?;
    mesh.apply("others.yaml", &others(), "Service/others/other-0").await?;
    let policies = measure(&mesh, POLICY, changes, policy).await?;
    print("weight", WEIGHTS, &weights);
    print(&format!("policy, among {SERVICES} services and {POLICIES} policies,"), POLICY, &policies);
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        println!("load of the machine: {}", load.trim());
    }
    Ok(())
}

/// Makes that many changes; `text` returns the file with a number from 1 to 99 in it.
async fn measure(mesh: &Mesh, changed: Changed, changes: usize, text: impl Fn(u32) -> String) -> Result<Vec<Change>> {
    let mut measured = Vec::new();
    for change in 0..changes + 5 {
        let one = make(mesh, changed, &text(1 + u32::try_from(change % 99)?)).await?;
        // The first few find the Envoys still busy with what was before.
        measured.extend((change >= 5).then_some(one));
    }
    Ok(measured)
}

/// Returns a policy of all workloads of the namespace.
fn policy(number: u32) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: everybody, namespace: shop}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [/never/{number}]}}}}]}}]}}\n"
    )
}

/// Returns services that nobody calls, and policies that select nobody of those that are awaited.
fn others() -> String {
    let services = (0..SERVICES).map(|index| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: other-{index}, namespace: others}}\n\
             spec: {{clusterIP: 10.97.{}.{}, ports: [{{name: http, port: 80}}]}}\n",
            index / 250,
            index % 250 + 1
        )
    });
    let policies = (0..POLICIES).map(|index| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: other-{index}, namespace: shop}}\n\
             spec: {{selector: {{matchLabels: {{app: other-{index}}}}}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}\n"
        )
    });
    services.chain(policies).collect()
}

/// Starts 18 sidecars like the client's, each on an address and with a Sidecar object of its own. They serve a port, so that policies
/// concern them.
async fn more_clients(mesh: &Mesh, options: &Options) -> Result<Vec<Process>> {
    let mut yaml = String::new();
    let mut pods = Vec::new();
    for index in 0..MORE_CLIENTS {
        let name: &'static str = format!("client-{}", index + 2).leak();
        let labels: &'static [(&'static str, &'static str)] = Vec::leak(vec![("app", name)]);
        let pod = Pod { host: 20 + index, name, labels, ..CLIENT };
        let address = mesh.network().address(pod.host);
        yaml += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}, security.istio.io/tlsMode: istio}}}}\n\
             spec: {{serviceAccountName: client, nodeName: laptop}}\n\
             status: {{podIP: {address}, podIPs: [{{ip: {address}}}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  workloadSelector: {{labels: {{app: {name}}}}}\n  ingress:\n\
             \x20 - {{port: {{number: 9090, protocol: HTTP, name: http}}, captureMode: NONE, defaultEndpoint: '0.0.0.0:9091'}}\n  egress:\n\
             \x20 - {{port: {{number: 9080, protocol: HTTP, name: http}}, bind: {address}, captureMode: NONE, hosts: [./reviews.shop.svc.cluster.local]}}\n"
        );
        pods.push(pod);
    }
    mesh.manifests().write("more-clients.yaml", &yaml)?;
    let discovery = mesh.network().socket(1, launch::PORT_SECURE_GRPC);
    let mut agents = Vec::new();
    for pod in pods {
        let address = mesh.network().address(pod.host);
        let mut command = Command::new(&options.istiod_lite);
        launch::issue_token(&options.istiod_lite, mesh.home(), pod)?;
        launch::agent(&mut command, options, mesh.home(), pod, address, discovery, "NONE");
        let mut agent = Process::start(pod.name, command, &mesh.home().join("logs"))?;
        wait_until_ready(&mut agent, SocketAddr::new(address, 15021), "/healthz/ready").await?;
        agents.push(agent);
    }
    Ok(agents)
}

/// Edits the file and waits for the last ACK.
async fn make(mesh: &Mesh, changed: Changed, text: &str) -> Result<Change> {
    let edited = unix_millis();
    let edited_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as f64;
    mesh.manifests().write(changed.file, text)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Asking costs the control plane CPU: not while it works.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let list: Value = serde_json::from_str(&get_text(mesh.monitoring(), "/debug/convergence").await?)?;
        let ours = |change: &&Value| {
            change["seen_unix_ms"].as_u64() >= Some(edited)
                && change["objects"].as_array().is_some_and(|objects| objects.iter().any(|named| named == changed.object))
        };
        let found = list.as_array().context("no list")?.iter().rev().find(ours);
        if let Some(record) = found.filter(|record| record["last_ack_unix_us"].is_i64()) {
            ensure!(record["proxies"] == changed.proxies, "the change should concern {} Envoys: {record}", changed.proxies);
            let at = |field: &str| record[field].as_i64().map(|at| at as f64).context("a time is missing");
            let (seen, published, acked) = (at("seen_unix_us")?, at("published_unix_us")?, at("last_ack_unix_us")?);
            let debounce = DEBOUNCE.as_micros() as f64;
            return Ok(Change { watched: seen - edited_us, made: published - seen - debounce, acked: acked - published });
        }
        ensure!(Instant::now() < deadline, "{}: not ACKed by all: {found:?}", changed.object);
    }
}

fn print(what: &str, changed: Changed, measured: &[Change]) {
    println!(
        "\n{} {what} changes to the last ACK of {} Envoys, milliseconds; debounce {} ms taken off",
        measured.len(),
        changed.proxies,
        DEBOUNCE.as_millis()
    );
    println!("{:<48} {:>7} {:>7} {:>7} {:>7}", "", "min", "p50", "p99", "max");
    row("seen to last ACK (the figure)", measured, |change| change.made + change.acked);
    row("  of it: seen to published", measured, |change| change.made);
    row("  of it: published to last ACK", measured, |change| change.acked);
    row("file edited to seen (file watcher), not in it", measured, |change| change.watched);
}

fn row(what: &str, measured: &[Change], of: impl Fn(&Change) -> f64) {
    let mut values: Vec<f64> = measured.iter().map(|change| of(change) / 1000.0).collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).saturating_sub(1)];
    println!("{what:<48} {:>7.2} {:>7.2} {:>7.2} {:>7.2}", at(0.0), at(0.5), at(0.99), at(1.0));
}

//! Istio's standard metrics of stock Envoys, as whoever scrapes their agents finds them: exactly what was sent, under exactly the
//! labels that Istio's own proxy has.

mod calls;
mod expected;
mod outsiders;
mod updates;

use std::{collections::BTreeMap, fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    http_client::{Response, get_with},
    manifest::with_weights,
    mesh::{
        CLIENT, CONVERGE, GATEWAY, MESH_HOST, Mesh, Options, PODS, PUBLIC_HOST, Pod, REVIEWS_V1, REVIEWS_V2, VIRTUAL_SERVICE,
        VIRTUAL_SERVICE_FILE,
    },
    series::Scrape,
    wait,
    workload::{HEADERS, READINESS, VERSION},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::expected::{Expected, Service, UNKNOWN, Workload, joined, of_destination, of_http, of_source, of_tcp};
use crate::mesh::{options, turn};

/// The header by which proxies tell each other who they are.
const PEER_HEADER: &str = "x-istiod-lite-peer";
const FORGED: (&str, &str) = (PEER_HEADER, "forged;forged;forged;forged;forged");
/// Where an agent is scraped.
const AGENT_PORT: u16 = 15020;
const MESH_CONFIG: &str = "mesh.yaml";
const REPORTING: &str = "defaultProviders: {metrics: [prometheus]}\n";
const REQUESTS: &str = "istio_requests_total";
const HISTOGRAMS: [&str; 3] = ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"];
const REVIEWS: Service = ["reviews.shop.svc.cluster.local", "reviews", "shop"];

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_40() -> Result<()> {
    each_request_is_counted_once_on_each_side("1.40").await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_38() -> Result<()> {
    each_request_is_counted_once_on_each_side("1.38").await
}

async fn each_request_is_counted_once_on_each_side(envoy_minor: &str) -> Result<()> {
    let _turn = turn().await?;
    let (mut mesh, config) = start(envoy_minor).await?;
    let halves = with_weights(&mesh.manifests().read(VIRTUAL_SERVICE_FILE)?, 50, 50);
    mesh.apply(VIRTUAL_SERVICE_FILE, &halves, VIRTUAL_SERVICE).await?;
    requests_of_both_ways(&mesh).await?;
    connections(&mesh).await?;
    plaintext(&mesh).await?;
    calls::are_told_from_requests(&mesh).await?;
    updates::keep_counts(&mesh, config.path(), envoy_minor).await?;
    // Last: its host has a workload's port as well, and is the service that the server counts from then on.
    outsiders::see_no_header(&mesh).await?;
    mesh.check_running()
}

/// Starts a mesh whose proxies report; its MeshConfig is in the folder that comes with it.
async fn start(envoy_minor: &str) -> Result<(Mesh, TempDir)> {
    let config = tempfile::tempdir()?;
    let file = config.path().join(MESH_CONFIG);
    fs::write(&file, REPORTING)?;
    let options = Options { listener_drain: Some("3s"), ..options(envoy_minor, true)? };
    let mesh = Mesh::start_with(options, Loopback::free()?, vec!["--meshConfig".into(), file.into()]).await?;
    Ok((mesh, config))
}

/// Sends requests by way of the gateway and of the client's sidecar, good ones and others.
async fn requests_of_both_ways(mesh: &Mesh) -> Result<()> {
    let before = scrape(mesh).await?;
    let gateway = mesh.network().socket(GATEWAY.host, 8080);
    let client = mesh.network().socket(CLIENT.host, 9080);
    let mut expected = Expected::default();
    for (target, host, from) in [(gateway, PUBLIC_HOST, Workload::of(GATEWAY)), (client, MESH_HOST, Workload::of(CLIENT))] {
        for at in 0..40 {
            let answer = asked(target, host, "/", &[FORGED][..at % 2]).await?;
            expected.request(&from, version(&answer)?, REVIEWS, &of_http("200", "-"));
        }
        for version in ["v1", "v2"] {
            mesh.workload(version).fail_probes(true);
        }
        for _ in 0..5 {
            let answer = asked(target, host, READINESS, &[]).await?;
            expected.request(&from, version(&answer)?, REVIEWS, &of_http("503", "-"));
        }
        for version in ["v1", "v2"] {
            mesh.workload(version).fail_probes(false);
        }
    }
    // A gateway has no route for these, and counts them as one, whatever they are.
    for host in ["a.example", "b.example", "c.example"] {
        get_with(gateway, host, "/", &[]).await?;
        let labels = [of_http("404", "NR"), of_source(&Workload::of(GATEWAY), UNKNOWN), of_destination(&Workload::default(), UNKNOWN)];
        expected.add(GATEWAY, joined("source", labels, [UNKNOWN; 3], UNKNOWN));
    }
    expected.are_counted(mesh, &before).await?;
    // Envoy's own port leads to the same.
    let [agent, envoy] = [AGENT_PORT, 15090].map(|port| mesh.network().socket(CLIENT.host, port));
    let (of_agent, of_envoy) = (Scrape::once(agent).await?, Scrape::once(envoy).await?);
    ensure!(of_agent.of_metric(REQUESTS).eq(of_envoy.of_metric(REQUESTS)), "{of_envoy:#?}");
    Ok(())
}

/// Connects by TCP, and sends a thousand bytes back and forth on each connection.
async fn connections(mesh: &Mesh) -> Result<()> {
    const BYTES: usize = 1000;
    let before = scrape(mesh).await?;
    for _ in 0..6 {
        let mut stream = TcpStream::connect(mesh.tcp()).await?;
        stream.write_all(&[7; BYTES]).await?;
        stream.read_exact(&mut [0; BYTES]).await?;
    }
    let metrics = [
        ("istio_tcp_connections_opened_total", 1.0),
        ("istio_tcp_connections_closed_total", 1.0),
        ("istio_tcp_sent_bytes_total", BYTES as f64),
        ("istio_tcp_received_bytes_total", BYTES as f64),
    ];
    let client = Workload::of(CLIENT);
    // Which server a connection went to, only the proxies know.
    let after = wait::until("six connections on each side", CONVERGE, || async {
        let after = scrape(mesh).await?;
        let sum = |pods: &[Pod]| {
            pods.iter().map(|pod| after[pod.name].growth(&before[pod.name], metrics[1].0).values().sum::<f64>()).sum::<f64>()
        };
        ensure!(
            sum(&[CLIENT]) == 6.0 && sum(&[REVIEWS_V1, REVIEWS_V2]) == 6.0,
            "{} and {}",
            sum(&[CLIENT]),
            sum(&[REVIEWS_V1, REVIEWS_V2])
        );
        Ok(after)
    })
    .await?;
    for (metric, each) in metrics {
        let mut of_client = BTreeMap::new();
        for server in [REVIEWS_V1, REVIEWS_V2] {
            let to = Workload::of(server);
            let seen = after[server.name].growth(&before[server.name], metric);
            // A certificate says no more of the client than account and namespace.
            let unnamed = Workload { namespace: "shop".into(), ..Workload::default() };
            let labels = joined(
                "destination",
                [of_tcp(), of_source(&unnamed, &client.principal), of_destination(&to, &to.principal)],
                REVIEWS,
                "mutual_tls",
            );
            let count = seen.get(&labels).copied().unwrap_or_default();
            ensure!(seen.len() <= 1 && seen.values().sum::<f64>() == count, "{}: {metric}: {seen:#?}\nnot only\n{labels:#?}", server.name);
            if count > 0.0 {
                let labels = [of_tcp(), of_source(&client, &client.principal), of_destination(&to, &to.principal)];
                of_client.insert(joined("source", labels, REVIEWS, UNKNOWN), count);
            }
        }
        let seen = after[CLIENT.name].growth(&before[CLIENT.name], metric);
        ensure!(seen == of_client, "{metric}: {seen:#?}\nnot\n{of_client:#?}");
        ensure!(seen.values().sum::<f64>() == 6.0 * each, "{metric}: {seen:#?}");
    }
    Ok(())
}

/// Asks a server without mTLS, under a name of one's own choice.
async fn plaintext(mesh: &Mesh) -> Result<()> {
    const FILE: &str = "sidecars.yaml";
    let permissive = mesh.manifests().read(FILE)?.replace("mode: STRICT", "mode: PERMISSIVE");
    mesh.manifests().write(FILE, &permissive)?;
    let target = mesh.network().socket(REVIEWS_V1.host, 9080);
    wait::until("an answer without mTLS", CONVERGE, || async { asked(target, MESH_HOST, "/", &[]).await.map(drop) }).await?;
    let before = scrape(mesh).await?;
    let mut expected = Expected::default();
    for _ in 0..4 {
        asked(target, MESH_HOST, "/", &[FORGED]).await?;
        let server = Workload::of(REVIEWS_V1);
        let labels = [of_http("200", "-"), of_source(&Workload::default(), UNKNOWN), of_destination(&server, UNKNOWN)];
        expected.add(REVIEWS_V1, joined("destination", labels, REVIEWS, "none"));
    }
    expected.are_counted(mesh, &before).await
}

/// Sends a request that some workload must answer, without having seen the header.
async fn asked(target: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let answer = get_with(target, host, path, &[headers, &[(HEADERS, "all")]].concat()).await?;
    ensure!(!answer.header(VERSION).is_empty(), "{target}{path}: no workload answered: {} {}", answer.status, answer.text());
    let seen = answer.header(HEADERS);
    ensure!(seen.contains("host") && !seen.contains(PEER_HEADER), "{target}{path}: the application saw {seen}");
    Ok(answer)
}

fn version(answer: &Response) -> Result<Pod> {
    match answer.header(VERSION) {
        "v1" => Ok(REVIEWS_V1),
        "v2" => Ok(REVIEWS_V2),
        other => anyhow::bail!("no version {other:?}"),
    }
}

/// Scrapes all agents, once Envoy has written its histograms: it does so every few seconds.
async fn scrape(mesh: &Mesh) -> Result<BTreeMap<&'static str, Scrape>> {
    let mut scrapes = BTreeMap::new();
    for pod in PODS {
        let agent = mesh.network().socket(pod.host, AGENT_PORT);
        let settled = wait::until("histograms of all requests", CONVERGE, || async {
            let scrape = Scrape::of(agent).await?;
            let of = |metric: &str| scrape.of_metric(metric).map(|(labels, value)| (labels.clone(), value)).collect::<BTreeMap<_, _>>();
            let requests = of(REQUESTS);
            ensure!(HISTOGRAMS.iter().all(|metric| of(&format!("{metric}_count")) == requests), "they differ");
            Ok(scrape)
        });
        scrapes.insert(pod.name, settled.await.context(pod.name)?);
    }
    Ok(scrapes)
}

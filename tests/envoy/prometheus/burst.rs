//! Requests and connections of known number, all of them between two scrapes of each proxy.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    http_client::{Response, get},
    mesh::{CLIENT, CONVERGE, GATEWAY, MESH_HOST, Mesh, PUBLIC_HOST, REVIEWS_V1, REVIEWS_V2},
    prometheus::{Prometheus, unix_seconds},
    series::Scrape,
    wait,
    workload::{READINESS, VERSION},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    EVERY, JOB, WINDOW,
    truth::{REQUESTS, Series, Truth, Window},
};

/// How long the workloads take for an answer: well within a bucket of the histogram.
const SLOW: Duration = Duration::from_millis(35);
/// The lower bound of that bucket, in milliseconds.
const FASTEST: f64 = 25.0;
/// The bounds of Envoy's buckets.
const BUCKETS: [f64; 8] = [50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0];
const SENT: &str = "istio_tcp_sent_bytes_total";
const RECEIVED: &str = "istio_tcp_received_bytes_total";
const BYTES: usize = 700;
/// How long proxies may take until what was answered is counted.
const COUNTED: Duration = Duration::from_millis(150);

/// What is sent: for each way in, how much of each sort.
struct Plan {
    good: usize,
    refused: usize,
    unknown_hosts: usize,
    connections: usize,
}

/// A request, as metrics have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    from: &'static str,
    to: Option<&'static str>,
    code: &'static str,
}

/// What became of it all.
#[derive(Default)]
pub(super) struct Sent {
    requests: BTreeMap<Kind, f64>,
    /// The bytes that each workload echoed.
    echoed: BTreeMap<&'static str, f64>,
    /// The longest that the client waited for an answer.
    slowest: Duration,
    /// How many requests workloads answered with 503.
    pub(super) refused: usize,
}

/// Sends some of every sort, so that all series are there, and leaves workloads slow and their probes failing.
pub(super) async fn warm_up(mesh: &Mesh) -> Result<Sent> {
    for version in ["v1", "v2"] {
        mesh.workload(version).slow_down(SLOW);
        mesh.workload(version).fail_probes(true);
    }
    let mut sent = Sent::default();
    // A few at a time, so that they take no longer than those of a burst: Prometheus extrapolates a bucket the less, the less there was in it
    // before, and would find slow requests where the buckets of fast ones were empty.
    for _ in 0..4 {
        sent.absorb(send(mesh, &Plan { good: 10, refused: 8, unknown_hosts: 1, connections: 8 }).await?);
    }
    // The chance that one of both was never chosen is one in a hundred million.
    ensure!(sent.echoed.len() == 2 && sent.requests.len() == 9, "not every sort: {:?} {:?}", sent.requests, sent.echoed);
    Ok(sent)
}

/// A burst.
pub(super) struct Burst;

impl Burst {
    /// Sends one, and returns what is known of it; `None` if some proxy was scraped meanwhile.
    pub(super) async fn send(mesh: &mut Mesh, prometheus: &Prometheus) -> Result<Option<Truth>> {
        let before = series(mesh).await?;
        wait_for_the_longest_gap(prometheus).await?;
        let (begun, clock) = (unix_seconds(), Instant::now());
        let sent = send(mesh, &Plan { good: 18, refused: 5, unknown_hosts: 2, connections: 6 }).await?;
        tokio::time::sleep(COUNTED).await;
        let ended = unix_seconds();
        ensure!(clock.elapsed() < 2 * EVERY, "the burst took {:?}", clock.elapsed());
        let Some(window) = window(prometheus, begun, ended).await? else { return Ok(None) };
        let mut series = before;
        sent.add_to(&mut series)?;
        Ok(Some(Truth { series, window }))
    }
}

/// Waits for the moment after which no proxy is scraped for the longest time.
async fn wait_for_the_longest_gap(prometheus: &Prometheus) -> Result<()> {
    let every = EVERY.as_secs_f64();
    let scrapes = prometheus.scrapes(JOB, WINDOW, unix_seconds()).await?;
    let mut phases =
        scrapes.values().map(|moments| moments.last().map(|last| last % every).context("no scrape")).collect::<Result<Vec<_>>>()?;
    phases.sort_by(f64::total_cmp);
    let following = phases.iter().skip(1).copied().chain([phases.first().context("no target")? + every]);
    let gaps = phases.iter().zip(following).map(|(phase, next)| (next - phase, *phase));
    let (_, phase) = gaps.max_by(|one, other| one.0.total_cmp(&other.0)).context("no gap")?;
    // A scrape takes a while itself.
    let wait = (phase + 0.15 - unix_seconds() % every).rem_euclid(every);
    tokio::time::sleep(Duration::from_secs_f64(wait)).await;
    Ok(())
}

/// Returns a window whose last two scrapes of each proxy have the burst between them.
async fn window(prometheus: &Prometheus, begun: f64, ended: f64) -> Result<Option<Window>> {
    let find = || async {
        let scrapes = prometheus.scrapes(JOB, WINDOW, unix_seconds()).await?;
        let after = scrapes.values().map(|moments| moments.iter().copied().find(|moment| *moment > ended));
        // To the millisecond, as Prometheus has it, and a little later.
        after.collect::<Option<Vec<f64>>>().context("not yet").map(|first| first.into_iter().fold(0.0, f64::max) + 0.002)
    };
    let end = wait::until("a scrape of every proxy", 4 * EVERY, find).await?;
    let scrapes = prometheus.scrapes(JOB, WINDOW, end).await?;
    let straddled = scrapes.values().all(|moments| match moments.as_slice() {
        [.., before, after] => *before < begun && *after > ended,
        _ => false,
    });
    Ok(straddled.then_some(Window { seconds: WINDOW as f64, end, scrapes }))
}

async fn send(mesh: &Mesh, plan: &Plan) -> Result<Sent> {
    let gateway = mesh.network().socket(GATEWAY.host, 8080);
    let client = mesh.network().socket(CLIENT.host, 9080);
    let echoed = || ["v1", "v2"].map(|version| mesh.workload(version).echoed());
    let before = echoed();
    let mut requests = JoinSet::new();
    for (target, host, from) in [(gateway, PUBLIC_HOST, GATEWAY.name), (client, MESH_HOST, CLIENT.name)] {
        for path in (0..plan.good).map(|_| "/").chain((0..plan.refused).map(|_| READINESS)) {
            requests.spawn(timed(from, target, host, path));
        }
    }
    for _ in 0..plan.unknown_hosts {
        requests.spawn(timed(GATEWAY.name, gateway, "nobody.example", "/"));
    }
    let mut connections = JoinSet::new();
    for _ in 0..plan.connections {
        connections.spawn(echo(mesh.tcp()));
    }
    let mut sent = Sent::default();
    while let Some(answer) = requests.join_next().await {
        let (from, answer, took) = answer.context("a request's task")??;
        sent.slowest = sent.slowest.max(took);
        let to = match answer.header(VERSION) {
            "v1" => Some(REVIEWS_V1.name),
            "v2" => Some(REVIEWS_V2.name),
            _ => None,
        };
        let code = match (answer.status.as_u16(), to) {
            (200, Some(_)) => "200",
            (503, Some(_)) => "503",
            (404, None) => "404",
            (status, _) => anyhow::bail!("{status}: {}", answer.text()),
        };
        sent.refused += usize::from(code == "503");
        *sent.requests.entry(Kind { from, to, code }).or_default() += 1.0;
    }
    while let Some(done) = connections.join_next().await {
        done.context("a connection's task")??;
    }
    for ((pod, before), after) in [REVIEWS_V1, REVIEWS_V2].into_iter().zip(before).zip(echoed()) {
        if after > before {
            sent.echoed.insert(pod.name, (after - before) as f64);
        }
    }
    Ok(sent)
}

async fn timed(from: &'static str, target: SocketAddr, host: &str, path: &str) -> Result<(&'static str, Response, Duration)> {
    let begun = Instant::now();
    Ok((from, get(target, host, path).await?, begun.elapsed()))
}

async fn echo(target: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(&[7; BYTES]).await?;
    stream.read_exact(&mut [0; BYTES]).await?;
    Ok(())
}

/// Returns the series of every proxy, once they stand still.
async fn series(mesh: &mut Mesh) -> Result<BTreeMap<String, Vec<Series>>> {
    let mut all: BTreeMap<String, Vec<Series>> = BTreeMap::new();
    for proxy in mesh.proxies() {
        let (agent, pod) = (proxy.agent_port(), proxy.pod());
        let scrape = wait::until("counters that stand still", CONVERGE, || async {
            let (one, other) = (Scrape::of(agent).await?, Scrape::of(agent).await?);
            ensure!(other.growth(&one, REQUESTS).is_empty(), "{} still counts", pod.name);
            Ok(other)
        })
        .await?;
        for metric in [REQUESTS, SENT, RECEIVED] {
            let of_proxy = scrape.of_metric(metric).map(|(labels, value)| Series {
                pod: pod.name.to_owned(),
                labels: labels.clone(),
                before: value,
                added: 0.0,
                duration: (0.0, 0.0),
            });
            all.entry(metric.to_owned()).or_default().extend(of_proxy);
        }
    }
    Ok(all)
}

impl Sent {
    fn absorb(&mut self, other: Self) {
        for (kind, count) in other.requests {
            *self.requests.entry(kind).or_default() += count;
        }
        for (server, bytes) in other.echoed {
            *self.echoed.entry(server).or_default() += bytes;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.refused += other.refused;
    }

    fn add_to(&self, series: &mut BTreeMap<String, Vec<Series>>) -> Result<()> {
        let requests = series.get_mut(REQUESTS).context("no requests")?;
        let waited = self.slowest.as_secs_f64() * 1000.0;
        let slowest = BUCKETS.into_iter().find(|bound| waited <= *bound).context("an answer that came too late")?;
        for (kind, count) in &self.requests {
            let to = kind.to.unwrap_or("unknown");
            // What a gateway answers by itself, it answers at once.
            let duration = if kind.to.is_some() { (FASTEST, slowest) } else { (0.0, slowest) };
            let labels = [("source_workload", kind.from), ("destination_workload", to), ("response_code", kind.code)];
            add(requests, kind.from, "source", &labels, *count, duration)?;
            if let Some(server) = kind.to {
                add(requests, server, "destination", &labels, *count, duration)?;
            }
        }
        for metric in [SENT, RECEIVED] {
            let connections = series.get_mut(metric).context("no connections")?;
            for (server, bytes) in &self.echoed {
                let labels = [("destination_workload", *server)];
                add(connections, CLIENT.name, "source", &labels, *bytes, (0.0, 0.0))?;
                add(connections, server, "destination", &labels, *bytes, (0.0, 0.0))?;
            }
        }
        Ok(())
    }
}

/// Adds to the one series of a proxy that has these labels.
fn add(series: &mut [Series], pod: &str, reporter: &str, labels: &[(&str, &str)], by: f64, duration: (f64, f64)) -> Result<()> {
    let has = |series: &Series, label: &str, value: &str| series.labels.get(label).is_some_and(|has| has == value);
    let is_it = |series: &&mut Series| {
        series.pod == pod && has(series, "reporter", reporter) && labels.iter().all(|(label, value)| has(series, label, value))
    };
    let mut found: Vec<&mut Series> = series.iter_mut().filter(is_it).collect();
    ensure!(found.len() == 1, "{pod} has {} series of {reporter} {labels:?}", found.len());
    found[0].added += by;
    found[0].duration = duration;
    Ok(())
}

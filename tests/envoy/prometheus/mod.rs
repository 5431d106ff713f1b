//! A real Prometheus scrapes real Envoys by way of their agents: what Istio's dashboards, Flagger and Argo Rollouts ask it gives the
//! numbers that the load generator knows.

mod burst;
mod known;
mod mutual_tls;
mod truth;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    manifest::with_weights,
    mesh::{CLIENT, Mesh, REVIEWS_V1, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    prometheus::{Labels, Prometheus, Sample, unix_seconds},
    said::skip,
    tools,
};
use promql_parser::parser;

use self::{
    burst::{Burst, warm_up},
    known::{Known, Vector, evaluate},
    truth::Truth,
};
use crate::mesh::{options, turn};

/// How often Prometheus scrapes.
const EVERY: Duration = Duration::from_secs(3);
/// The window of the queries: four scrapes, as Grafana takes it.
const WINDOW: u64 = 12;
/// How long Envoy may take until the buckets of its histograms have a request.
const FLUSH: Duration = Duration::from_secs(7);
/// How often a burst is tried that has to lie between two scrapes.
const TRIES: usize = 6;
const JOB: &str = "mesh";
const QUERIES: &str = include_str!("queries.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_and_analyses_show_what_was_sent() -> Result<()> {
    if tools::prometheus("prometheus").is_err() {
        skip("dashboards_and_analyses_show_what_was_sent", "no Prometheus: run `scripts/setup-prometheus`");
        return Ok(());
    }
    let _turn = turn().await?;
    let mut mesh = Mesh::start_reporting(options("1.40", true)?, Loopback::free()?).await?;
    let halves = with_weights(&mesh.manifests().read(VIRTUAL_SERVICE_FILE)?, 50, 50);
    mesh.apply(VIRTUAL_SERVICE_FILE, &halves, VIRTUAL_SERVICE).await?;
    let prometheus = mesh.prometheus(EVERY).await?;
    first_requests_count(&mesh, &prometheus).await?;
    let truth = measured(&mut mesh, &prometheus).await?;
    let mut wrong = Vec::new();
    let queries = queries()?;
    for (of, query) in &queries {
        if let Err(error) = compare(&prometheus, query, &truth).await {
            wrong.push(format!("{of}: {query}\n  {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} queries:\n{}", wrong.len(), queries.len(), wrong.join("\n"));
    mesh.check_running()
}

/// Sends the first requests of every sort: a series that is new begins at zero, so that `increase` counts them too.
async fn first_requests_count(mesh: &Mesh, prometheus: &Prometheus) -> Result<()> {
    let sent = warm_up(mesh).await?;
    // One scrape shows a series at zero, the next one its value.
    tokio::time::sleep(3 * EVERY).await;
    let refused = "sum(increase(istio_requests_total{reporter=\"destination\",response_code=\"503\"}[1m]))";
    let counted = prometheus.number(refused).await?.unwrap_or_default();
    ensure!(counted >= sent.refused as f64, "of {} refused requests, the first ones, only {counted} were counted", sent.refused);
    Ok(())
}

/// Sends a burst between two scrapes of every proxy, and returns what is known of it.
async fn measured(mesh: &mut Mesh, prometheus: &Prometheus) -> Result<Truth> {
    for _ in 0..TRIES {
        // So that the window has nothing else, not even what histograms have late of a burst that was given up.
        tokio::time::sleep(Duration::from_secs(WINDOW) + EVERY + FLUSH).await;
        if let Some(truth) = Burst::send(mesh, prometheus).await? {
            tokio::time::sleep(FLUSH + EVERY).await;
            return Ok(truth);
        }
    }
    anyhow::bail!("no burst lay between two scrapes in {TRIES} tries: the machine is too busy")
}

/// Returns all queries, each with where it comes from.
fn queries() -> Result<Vec<(String, String)>> {
    let written: BTreeMap<String, Vec<String>> = serde_norway::from_str(QUERIES)?;
    let mut queries = Vec::new();
    for (of, query) in written.into_iter().flat_map(|(of, queries)| queries.into_iter().map(move |query| (of.clone(), query))) {
        let quantiles: &[&str] = if query.contains("$quantile") { &["0.50", "0.90", "0.95", "0.99"] } else { &[""] };
        let security: &[&str] = if query.contains("$security") { &["=\"mutual_tls\"", "!=\"mutual_tls\""] } else { &[""] };
        for (quantile, security) in quantiles.iter().flat_map(|quantile| security.iter().map(move |security| (quantile, security))) {
            let query = query.replace("$quantile", quantile).replace("$security", security);
            let query = query.replace("$window", &format!("{WINDOW}s")).replace("$reporter", "destination");
            let query = query.replace("$service", "reviews.shop.svc.cluster.local");
            queries.push((of.clone(), query.replace("$workload", REVIEWS_V1.name).replace("$client", CLIENT.name)));
        }
    }
    Ok(queries)
}

/// Asks Prometheus, and compares its answer with what is known.
async fn compare(prometheus: &Prometheus, query: &str, truth: &Truth) -> Result<()> {
    let parsed = parser::parse(query).map_err(anyhow::Error::msg)?;
    let mut known = evaluate(&parsed, truth)?;
    // What is no number is not shown.
    known.retain(|_, value| !matches!(value, Known::Exactly(value) if value.is_nan()));
    let end = truth.window.end;
    let answer = if query.contains("histogram_quantile") {
        // Buckets come a little later than counts, in one or two scrapes.
        prometheus.query_range(query, (end, unix_seconds()), 1.0).await?
    } else {
        prometheus.query_at(query, end).await?
    };
    let answer: Vec<Sample> = answer.into_iter().filter(|sample| !sample.value.is_nan()).collect();
    for sample in &answer {
        let value = known
            .get(&sample.labels)
            .with_context(|| format!("{:?} = {}: nothing was sent\n{}", sample.labels, sample.value, shown(&known)))?;
        ensure!(value.agrees(sample.value), "{:?} = {}, not {value:?}", sample.labels, sample.value);
    }
    let seen: Vec<&Labels> = answer.iter().map(|sample| &sample.labels).collect();
    let missing: Vec<&Labels> = known.keys().filter(|labels| !seen.contains(labels)).collect();
    ensure!(missing.is_empty(), "nothing of {missing:?}\n{}", shown(&known));
    Ok(())
}

fn shown(known: &Vector) -> String {
    known.iter().map(|(labels, value)| format!("    {labels:?} {value:?}\n")).collect()
}

/// Checks that the queries are those that the test is about, and that most of them give something.
#[test]
fn the_queries_are_written_out() -> Result<()> {
    let queries = queries()?;
    ensure!(queries.len() > 150, "only {} queries", queries.len());
    for (of, query) in &queries {
        ensure!(!query.contains('$'), "{of}: {query}");
        parser::parse(query).map_err(|error| anyhow::anyhow!("{of}: {query}: {error}"))?;
    }
    Ok(())
}

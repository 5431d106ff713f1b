//! A canary that is judged by metrics alone: whoever shifts it knows nothing but what one PromQL query on `istio_requests_total`
//! says of v2. A good release is promoted, a bad one rolled back.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Stage;
use crate::{
    counters::Counters,
    load::{Load, Window},
    mesh::Mesh,
    prometheus::Prometheus,
};

/// How often Prometheus scrapes.
const EVERY: Duration = Duration::from_secs(1);
/// The window of the query.
const WINDOW: Duration = Duration::from_secs(8);
/// The share of good answers below which a release is rolled back, in percent.
const LEAST: f64 = 99.0;
/// Requests per second on each path.
const RATE: u32 = 100;
/// The shares of v2 on the way to all.
const STEPS: [u32; 3] = [10, 25, 50];
/// How long may pass until the query has an answer.
const UNKNOWN: Duration = Duration::from_secs(30);

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Promoted,
    RolledBack,
}

/// Runs a good release and a bad one, and prints what happened; whether the first was promoted, the second rolled back, and no
/// request failed but those that the bad release answered.
///
/// # Errors
/// When a step cannot be taken at all.
pub async fn run(mesh: &mut Mesh) -> Result<bool> {
    let prometheus = mesh.prometheus(EVERY).await?;
    println!("\nPrometheus  http://{}/  scrapes every {} s\nquery       {}\n", prometheus.address(), EVERY.as_secs(), success_rate());
    println!("{:<32} {:>6}  {:>10}  {:>9}", "", "v2", "good of v2", "after");
    let before = mesh.counters().await?;
    let load = Stage::load(mesh, RATE).await?;
    let good = release(mesh, &prometheus, "a good release", None).await?;
    shift(mesh, 0).await?;
    let bad = release(mesh, &prometheus, "a bad release", Some(STEPS[1])).await?;
    let met = load.so_far().bad_releases();
    tokio::time::sleep(EVERY).await;
    let still_met = load.so_far().bad_releases() - met;
    mesh.workload("v2").fail_requests(false);
    mesh.check_running()?;
    let counted = broken(&before, &mesh.counters().await?);
    let all = Load::stop(load).await;
    Ok(summarise((good, bad), &all, still_met, &counted))
}

/// Returns the query: which part of the answers of v2 in the window is not the server's fault, in percent.
fn success_rate() -> String {
    let of = |further: &str| {
        let seconds = WINDOW.as_secs();
        format!("sum(rate(istio_requests_total{{reporter=\"destination\",destination_workload=~\"reviews-v2.*\"{further}}}[{seconds}s]))")
    };
    format!("{} / {} * 100", of(",response_code!~\"5.*\""), of(""))
}

/// Shifts traffic to v2 step by step, and goes on or back as Prometheus says. At the share `fails_at`, v2 turns bad.
async fn release(mesh: &Mesh, prometheus: &Prometheus, what: &str, fails_at: Option<u32>) -> Result<Verdict> {
    for percent in STEPS {
        shift(mesh, percent).await?;
        if fails_at == Some(percent) {
            mesh.workload("v2").fail_requests(true);
        }
        let begun = Instant::now();
        let rate = judge(prometheus, begun).await?;
        let verdict = if rate < LEAST { "rolled back" } else { "" };
        println!("{what:<32} {percent:>4} %  {rate:>8.2} %  {:>7.1} s  {verdict}", begun.elapsed().as_secs_f64());
        if rate < LEAST {
            shift(mesh, 0).await?;
            return Ok(Verdict::RolledBack);
        }
    }
    shift(mesh, 100).await?;
    println!("{what:<32}  100 %  {:>10}  {:>9}  promoted", "", "");
    Ok(Verdict::Promoted)
}

/// Returns the success rate once the window lies within the step, or as soon as it is too low.
async fn judge(prometheus: &Prometheus, begun: Instant) -> Result<f64> {
    loop {
        let rate = prometheus.number(&success_rate()).await?;
        match rate {
            Some(rate) if rate < LEAST || begun.elapsed() > WINDOW + 2 * EVERY => return Ok(rate),
            None if begun.elapsed() > UNKNOWN => bail!("no answers of v2 are counted: {}", success_rate()),
            _ => tokio::time::sleep(EVERY / 4).await,
        }
    }
}

async fn shift(mesh: &Mesh, percent: u32) -> Result<()> {
    Stage::shift(mesh, percent).await.map(drop)
}

/// Returns what the Envoys counted but for answers with 5xx, which the release gives by itself.
fn broken(before: &[Counters], after: &[Counters]) -> Vec<String> {
    let all = after.iter().zip(before).flat_map(|(now, then)| now.failures_since(then));
    all.filter(|failure| !failure.contains("_rq_5xx ")).collect()
}

fn summarise(verdicts: (Verdict, Verdict), all: &Window, still_met: usize, broken: &[String]) -> bool {
    let failures = all.failures_of_the_mesh();
    println!("\nrequests    {} sent, {} failed by the mesh", all.outcomes().len(), failures.len());
    println!("bad v2      {} requests met it, {still_met} of them after the roll-back", all.bad_releases());
    failures.iter().take(5).for_each(|failure| println!("failed      {failure}"));
    broken.iter().for_each(|failure| println!("Envoys      {failure}"));
    let judged = verdicts == (Verdict::Promoted, Verdict::RolledBack);
    let passed = judged && failures.is_empty() && broken.is_empty() && still_met == 0;
    println!("{}", if passed { "PASSED" } else { "FAILED" });
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_about_v2_alone() {
        assert_eq!(
            success_rate(),
            "sum(rate(istio_requests_total{reporter=\"destination\",destination_workload=~\"reviews-v2.*\",response_code!~\"5.*\"}[8s])) \
             / sum(rate(istio_requests_total{reporter=\"destination\",destination_workload=~\"reviews-v2.*\"}[8s])) * 100"
        );
    }
}

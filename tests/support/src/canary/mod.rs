//! The canary: its steps, and what is measured at each. The same in the folder's mesh and on a cluster.

pub mod judged;
mod table;

use std::time::{Duration, Instant};

use anyhow::Result;

use self::table::{Row, Share, Table};
use crate::{
    convergence::Converged,
    counters::{Counters, expect_no_failures},
    load::{Load, Window},
    statistics::{binomial_p_value, share_agrees},
};

/// A mesh with two versions of `reviews`, in which the share of v2 can be moved.
pub trait Stage {
    /// What is edited, as a person would name it.
    const EDITED: &'static str;

    /// Starts load on both ways to `reviews`, `gateway` and `mesh`, with so many requests per second on each.
    fn load(&self, rate: u32) -> impl Future<Output = Result<Load>>;

    /// Returns the counters of every Envoy, always in the same order.
    fn counters(&self) -> impl Future<Output = Result<Vec<Counters>>>;

    /// Gives v2 its share, and waits until every Envoy that this concerns has ACKed it.
    fn shift(&self, v2_percent: u32) -> impl Future<Output = Result<Converged>>;

    /// Has v2 behave as a bad release would, or no longer.
    fn turn_v2(&self, bad: bool) -> impl Future<Output = Result<()>>;

    /// Returns what a person should know who sees failed requests, such as probes that failed: a machine that is too busy makes
    /// endpoints unready.
    fn circumstances(&self) -> impl Future<Output = String> {
        async { String::new() }
    }

    /// Returns an error if anything ended by itself.
    fn check_running(&mut self) -> impl Future<Output = Result<()>>;
}

/// Requests per second on each path.
const RATE: u32 = 200;
/// Requests on each path that judge a step's share, all sent after the last ACK.
const SAMPLE: u64 = 1000;

struct Step {
    what: &'static str,
    v2_percent: u32,
    /// Whether v2 behaves as a bad release from here on.
    bad_release: bool,
}

const fn step(what: &'static str, v2_percent: u32, bad_release: bool) -> Step {
    Step { what, v2_percent, bad_release }
}

const STEPS: &[Step] = &[
    step("all on v1", 0, false),
    step("canary", 10, false),
    step("half", 50, false),
    step("all on v2", 100, false),
    step("half, v2 turns bad", 50, true),
    step("rolled back", 0, true),
];

/// Runs every step and prints the table; whether no request failed and every share was right.
///
/// # Errors
/// When a step cannot be taken at all.
pub async fn run<S: Stage>(stage: &mut S) -> Result<bool> {
    let before = stage.counters().await?;
    let load = stage.load(RATE).await?;
    let mut table = Table::begin(S::EDITED);
    for step in STEPS {
        stage.turn_v2(step.bad_release).await?;
        take(stage, &load, step, &mut table).await?;
        stage.check_running().await?;
    }
    // Before the load stops: what it held open would end under the Envoys' eyes.
    let counted = expect_no_failures(&before, &stage.counters().await?);
    let all = load.stop().await;
    let circumstances = if all.failures().is_empty() { String::new() } else { stage.circumstances().await };
    Ok(summarise(&table, &all, counted, &circumstances))
}

async fn take<S: Stage>(stage: &S, load: &Load, step: &Step, table: &mut Table) -> Result<()> {
    let began = Instant::now();
    table.announce(step.what, step.v2_percent);
    let converged = stage.shift(step.v2_percent).await?;
    let settled = Instant::now();
    let mut row = Row {
        what: step.what,
        wanted_percent: step.v2_percent,
        to_last_ack: (converged.proxies > 0).then_some(converged.took),
        ..Row::default()
    };
    loop {
        let window = load.since(settled);
        row.gateway = share(&window, "gateway", step.v2_percent);
        row.mesh = share(&window, "mesh", step.v2_percent);
        row.failed = load.since(began).failures().len();
        let enough = row.gateway.seen >= SAMPLE && row.mesh.seen >= SAMPLE;
        // A path that no longer answers would never give its sample.
        let hopeless = settled.elapsed() > Duration::from_secs(3 * SAMPLE / u64::from(RATE));
        table.update(&row, enough || hopeless);
        if enough || hopeless {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn share(window: &Window, path: &str, wanted_percent: u32) -> Share {
    let sample = window.sample(path);
    let p_value = binomial_p_value(sample.of("v2"), sample.total, f64::from(wanted_percent) / 100.0);
    let agrees = sample.total > 0 && share_agrees(p_value, 2 * STEPS.len());
    Share { seen: sample.total, percent: sample.share("v2") * 100.0, p_value, agrees }
}

fn summarise(table: &Table, all: &Window, counted: Result<()>, circumstances: &str) -> bool {
    let failures = all.failures();
    let off = table.shares_off();
    println!();
    println!(
        "requests   {} sent, {} failed, latency p50 {:.1} ms, p99 {:.1} ms",
        all.outcomes().len(),
        failures.len(),
        millis(all, 0.5),
        millis(all, 0.99)
    );
    println!("shares     {} of {} off (false alarm: at most one run in a million)", off, 2 * STEPS.len());
    println!(
        "bad v2     {} requests met the bad release before the roll-back (the application's fault, not the mesh's)",
        all.bad_releases()
    );
    match &counted {
        Ok(()) => println!("Envoys     agree: no 5xx, no retry, no failed or broken upstream connection"),
        Err(error) => println!("Envoys     {error:#}"),
    }
    for failure in failures.iter().take(5) {
        println!("failed     {failure}");
    }
    circumstances.lines().for_each(|line| println!("           {line}"));
    let passed = failures.is_empty() && off == 0 && counted.is_ok();
    println!("{}", if passed { "PASSED" } else { "FAILED" });
    passed
}

fn millis(window: &Window, share: f64) -> f64 {
    window.latency(share).as_secs_f64() * 1000.0
}

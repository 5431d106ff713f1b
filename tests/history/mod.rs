//! After any history of changes, connected proxies have and are told what they would if they and the control plane were new:
//! objects of many kinds come, change, are refused and go, in batches, while proxies connect and leave. It is held after every
//! step against new proxies, and at the end against an engine that was only ever given what is left.
//!
//! `HISTORY_CASES` says how many histories, `HISTORY_SEED` which, `HISTORY_STEPS` how long; `HISTORY_FIRST` begins with a later
//! one. What fails is printed as the fewest events that still fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod generate;
mod run;

use std::env;

use harness::random::fresh_seed;

use self::{
    generate::{Event, Step},
    run::run,
};

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn no_history_shows() {
    let (seed, first) = (number("HISTORY_SEED").unwrap_or_else(fresh_seed), number("HISTORY_FIRST").unwrap_or(0));
    let (cases, steps) = (number("HISTORY_CASES").unwrap_or(20), number("HISTORY_STEPS").unwrap_or(20));
    println!("history: {cases} histories of {steps} steps, seed {seed}");
    let mut changes = 0;
    for number in first..first + cases {
        let history = generate::history(seed, number, steps);
        let outcome = run(&history);
        changes += outcome.changes;
        if outcome.fault.is_some() {
            let fewest = fewest(history);
            let fault = run(&fewest).fault.unwrap_or_default();
            let again = format!("HISTORY_SEED={seed} HISTORY_FIRST={number} HISTORY_CASES=1 HISTORY_STEPS={steps}");
            panic!("history {number} shows ({again})\n{fault}\n{}", told(&fewest));
        }
    }
    // If proxies had nothing that changes, nothing could show.
    assert!(changes as u64 >= cases * steps / 4, "{changes} steps only changed what a proxy has");
}

/// Returns a history that fails as well, of which nothing can be left out.
fn fewest(mut history: Vec<Step>) -> Vec<Step> {
    let mut at = 0;
    loop {
        let places: Vec<(usize, usize)> =
            history.iter().enumerate().flat_map(|(step, events)| (0..events.len()).map(move |event| (step, event))).collect();
        let Some((step, event)) = places.len().checked_sub(at + 1).map(|at| places[at]) else { return history };
        let mut fewer = history.clone();
        fewer[step].remove(event);
        if run(&fewer).fault.is_some() {
            history = fewer;
        } else {
            at += 1;
        }
    }
}

fn told(history: &[Step]) -> String {
    let event = |event: &Event| match event {
        Event::Written(document) => format!("{document}\n---\n"),
        Event::Removed(document) => format!("# gone: {}\n", generate::identity(document)),
        Event::Connected(proxy) => format!("# proxy {proxy} connects\n"),
        Event::Left(proxy) => format!("# proxy {proxy} leaves\n"),
    };
    let steps = history.iter().enumerate().filter(|(_, step)| !step.is_empty());
    steps.map(|(at, step)| format!("# step {at}\n{}", step.iter().map(event).collect::<String>())).collect()
}

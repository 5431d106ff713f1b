//! Objects that get in each other's way, by the thousand: whatever people write, a real Envoy takes every listener, route table
//! and cluster that is made of it. A case is a small mesh of few names, hosts, ports and addresses, so that much of it collides.
//!
//! `CONFLICT_CASES` says how many cases, `CONFLICT_SEED` which; `CONFLICT_FIRST` begins with a later one. What Envoy refuses is
//! printed as the fewest objects that it still refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod case;
mod generate;

use std::{env, fmt::Write};

use harness::random::fresh_seed;

use self::case::Case;
use crate::judge::Judge;

/// How many are judged by one Envoy: its start costs as much as dozens of them.
const BATCH: u64 = 100;
/// After so many, more say nothing new.
const MOST_REFUSED: usize = 5;

/// Returns the objects of a case, one document each.
pub(crate) fn objects(number: u64) -> Vec<String> {
    let objects = generate::case(0, number).objects;
    objects.iter().flat_map(|text| text.split("\n---\n")).map(|text| text.trim_end().to_owned()).collect()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn envoy_takes_whatever_objects_get_in_each_others_way() {
    let (seed, first) = (number("CONFLICT_SEED").unwrap_or_else(fresh_seed), number("CONFLICT_FIRST").unwrap_or(0));
    let end = first + number("CONFLICT_CASES").unwrap_or(2_000);
    let mut judge = Judge::new(harness::tools::envoy("1.40").unwrap());
    let mut refused = Vec::new();
    let mut from = first;
    while from < end && refused.len() < MOST_REFUSED {
        let to = end.min(from + BATCH);
        let cases: Vec<Case> = (from..to).map(|number| generate::case(seed, number)).collect();
        refused.extend(judge.refused(&cases, MOST_REFUSED - refused.len()));
        from = to;
    }
    println!("conflicts: {} cases of seed {seed}, {} starts of Envoy", from - first, judge.starts());
    let mut told = String::new();
    for case in &refused {
        let (smallest, reason) = judge.smallest(case);
        let again = format!("CONFLICT_SEED={seed} CONFLICT_FIRST={} CONFLICT_CASES=1", case.number);
        writeln!(told, "\n# case {} ({again})\n# {reason}\n{smallest}", case.number).unwrap();
    }
    assert!(refused.is_empty(), "Envoy refuses {} of the cases of seed {seed}{told}", refused.len());
}

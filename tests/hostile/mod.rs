//! Hostile values for every field that is read: whatever the checks of objects take, a real Envoy takes what is made of it, with the
//! bootstrap that agents give theirs. The fields are those of the walk (`tests/fields`), and the object stands in its small mesh.
//!
//! `HOSTILE_CASES` says how many values, `HOSTILE_SEED` which; `HOSTILE_FIRST` begins with a later one, and `FIELD=spec.http` tries
//! some fields only. What Envoy refuses is printed with the fewest parts of the object that it still refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod case;
mod generate;
mod known;
mod values;

use std::{collections::BTreeSet, env, fmt::Write};

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use harness::random::fresh_seed;

use self::{
    case::{Case, Made},
    generate::Generator,
};
use crate::judge::{Judge, Tried};

/// How many are judged by one Envoy.
const BATCH: u64 = 200;
/// After so many, more say nothing new. A field counts once.
const MOST_REFUSED: usize = 20;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn envoy_takes_whatever_values_the_checks_take() {
    let (seed, first) = (number("HOSTILE_SEED").unwrap_or_else(fresh_seed), number("HOSTILE_FIRST").unwrap_or(0));
    let end = first + number("HOSTILE_CASES").unwrap_or(1_000);
    let generator = Generator::load(seed);
    let mut judge = Judge::new(harness::tools::envoy("1.40").unwrap());
    let (mut refused, mut of_refused) = (Vec::new(), BTreeSet::new());
    let (mut from, mut taken) = (first, 0);
    while from < end && refused.len() < MOST_REFUSED {
        let to = end.min(from + BATCH);
        let cases = (from..to).map(|number| generator.case(number)).filter(|case| case.fields.is_disjoint(&of_refused));
        let made: Vec<Made<'_>> = cases.filter_map(Case::made).collect();
        taken += made.len();
        let found = judge.refused(&made, MOST_REFUSED - refused.len());
        of_refused.extend(found.iter().flat_map(|made| made.case.fields.clone()));
        refused.extend(found);
        from = to;
    }
    println!(
        "hostile: {} values for {} fields, seed {seed}; the checks take {taken}; {} starts of Envoy",
        from - first,
        generator.fields(),
        judge.starts()
    );
    let mut told = String::new();
    for made in &refused {
        let (smallest, reason) = judge.smallest(made);
        let again = format!("HOSTILE_SEED={seed} HOSTILE_FIRST={} HOSTILE_CASES=1", made.case.number);
        writeln!(told, "\n# case {} ({again})\n# {reason}\n{}", made.case.number, smallest.case).unwrap();
    }
    assert!(refused.is_empty(), "Envoy refuses {} of the values of seed {seed}{told}", refused.len());
    // Most values are refused as they should be; if all were, nothing would be tried.
    assert!(taken as u64 >= (from - first) / 20, "the checks take {taken} only");
}

#[test]
fn the_judge_tells_what_envoy_refuses() {
    let generator = Generator::load(1);
    let mut judge = Judge::new(harness::tools::envoy("1.40").unwrap());
    let made = (0..).map(|number| generator.case(number)).find_map(Case::made).unwrap();
    let mut sent: Vec<Bootstrap> = made.sent();
    assert_eq!(judge.ask(sent.iter()), None);
    let resources = sent[0].static_resources.as_mut().unwrap();
    resources.clusters[0].connect_timeout = Some(envoy_types::pb::google::protobuf::Duration { seconds: -1, nanos: 0 });
    assert!(judge.ask(sent.iter()).is_some());
}

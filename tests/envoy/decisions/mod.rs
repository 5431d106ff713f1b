//! Whom policies let in, as a real Envoy decides it: the table in the YAML files beside this one, and spellings that nobody wrote down.

pub(crate) mod client;
mod spelling;
pub(crate) mod stage;
pub(crate) mod table;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use harness::random::{Random, fresh_seed};

use self::{
    client::Verdict,
    spelling::{Normalization, spelled_host, spelled_path},
    stage::Stage,
    table::{Row, Set},
};
use crate::mesh::turn;

/// How many requests are on their way at a time.
const AT_A_TIME: usize = 16;
/// How many spellings are tried of each kind.
const SPELLINGS: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn policies_decide_as_the_table_says() -> Result<()> {
    let _turn = turn().await?;
    let stage = Stage::open(table::read()?).await?;
    let asked: Vec<_> = stage.asked().collect();
    ensure!(asked.len() >= 300, "only {} decisions", asked.len());
    let judged: Vec<Option<String>> = stream::iter(asked.iter())
        .map(|asked| async {
            let got = stage.ask(asked.workload, asked.row).await?;
            let wrong = (got != asked.expected).then(|| format!("{}, {}: {got:?}, not {:?}", asked.of, asked.row, asked.expected));
            anyhow::Ok(wrong)
        })
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    let wrong: Vec<String> = judged.into_iter().flatten().collect();
    ensure!(wrong.is_empty(), "{} of {} are decided otherwise:\n{}", wrong.len(), asked.len(), wrong.join("\n"));
    println!("{} decisions, all as written", asked.len());
    Ok(())
}

/// What a spelling may turn out to be.
#[derive(Default)]
struct Tried {
    covered: usize,
    passed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_passes_that_a_deny_covers() -> Result<()> {
    let _turn = turn().await?;
    let seed = fresh_seed();
    println!("seed {seed}");
    let mut random = Random::seeded(seed);
    let deny = |operation: &str| Set::denying(operation, &Normalization::ALL.map(Normalization::name));
    let stage =
        Stage::open(vec![deny("{paths: [/admin/*]}"), deny("{hosts: [admin.example.com, 'admin.example.com:*', 'admin.example.com.*']}")])
            .await?;
    let mut tried: BTreeMap<&str, Tried> = BTreeMap::new();
    let mut rows = Vec::new();
    for _ in 0..SPELLINGS {
        let path = spelled_path(&mut random);
        for (workload, normalization) in Normalization::ALL.into_iter().enumerate() {
            let covered = normalization.of(&path).starts_with("/admin/");
            rows.push((workload, normalization.name(), covered, Row::of_path(&path)));
        }
        let (host, absolute) = (spelled_host(&mut random, "admin.example.com"), random.within(0..3) == 0);
        let row = if absolute { Row::of_path(&format!("http://{host}/")) } else { Row::of_host(&host) };
        rows.push((Normalization::ALL.len(), "hosts", true, row));
    }
    let verdicts: Vec<Verdict> =
        stream::iter(&rows).map(|(workload, _, _, row)| stage.ask(*workload, row)).buffered(AT_A_TIME).try_collect().await?;
    for ((_, kind, covered, row), verdict) in rows.iter().zip(verdicts) {
        let tried = tried.entry(kind).or_default();
        tried.covered += usize::from(*covered);
        tried.passed += usize::from(verdict == Verdict::Passes);
        ensure!(!(*covered && verdict == Verdict::Passes), "seed {seed}: {kind}: {row} passes");
    }
    for (kind, Tried { covered, passed }) in tried {
        // Without normalization few spellings mean the same.
        ensure!(covered > 0 && (passed > 0 || kind == "hosts"), "seed {seed}: {kind}: {covered} are covered, {passed} passed");
        println!("{kind}: {covered} of {SPELLINGS} covered, none passed; {passed} others did");
    }
    Ok(())
}

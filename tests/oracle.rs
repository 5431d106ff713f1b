//! Held against istiod 1.30.3: `tests/oracle/cases/<case>/in.yaml` has objects, `<proxy>.node.json` a proxy and
//! `<proxy>.json` what istiod sent it. If there is `root-cert.pem`, that is the root of istiod's CA, and it ran with
//! `ISTIO_MULTIROOT_MESH`. We must send resources of the same names, and every field that differs must be
//! listed, with its reason, in `tests/oracle/differences.yaml` and `docs/compatibility.md`.
//!
//! The nodes report no Envoy extensions, so both sides speak to Istio's own proxy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod answer;
mod compare;
mod differences;

use std::{collections::BTreeMap, fs, path::PathBuf};

use compare::Dump;
use differences::Differences;

pub(crate) fn cases() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/cases")
}

// `(case, proxy)`, sorted.
pub(crate) fn proxies() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for case in fs::read_dir(cases()).unwrap() {
        let case = case.unwrap();
        for file in fs::read_dir(case.path()).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            if let Some(proxy) = file.strip_suffix(".node.json") {
                found.push((case.file_name().into_string().unwrap(), proxy.to_owned()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn we_send_what_istiod_sends() {
    let listed = Differences::load();
    let mut unlisted = BTreeMap::<String, Vec<String>>::new();
    let mut seen = BTreeMap::<String, usize>::new();
    let mut equal = 0;
    let mut total = 0;
    for (case, proxy) in proxies() {
        let folder = cases().join(&case);
        let theirs: Dump = serde_json::from_str(&fs::read_to_string(folder.join(format!("{proxy}.json"))).unwrap()).unwrap();
        let ours = answer::answer(&folder, &proxy);
        let report = compare::compare(&theirs, &ours);
        equal += report.equal;
        total += report.total;
        for difference in report.differences {
            match listed.find(&case, &difference.path) {
                Some(id) => *seen.entry(id.to_owned()).or_default() += 1,
                None => unlisted.entry(format!("{case}/{proxy}")).or_default().push(difference.to_string()),
            }
        }
    }
    println!("{equal} of {total} resources are equal to the last field");
    for (proxy, differences) in &unlisted {
        let shown: usize = std::env::var("SHOW").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
        println!("\n{proxy}: {} differences not listed in differences.yaml", differences.len());
        differences.iter().take(shown).for_each(|difference| println!("  {difference}"));
    }
    assert!(unlisted.is_empty(), "{} differences are not listed", unlisted.values().map(Vec::len).sum::<usize>());
    let gone: Vec<_> = listed.ids().filter(|id| !seen.contains_key(*id)).collect();
    assert!(gone.is_empty(), "listed, but nothing differs so any more: {gone:?}");
}

#[test]
fn the_document_lists_the_same_differences() {
    let listed = Differences::load();
    let document = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md")).unwrap();
    let section = document.split("\n## ").find(|section| section.starts_with("What differs for Istio's proxy")).unwrap();
    let rows: BTreeMap<&str, &str> = section.lines().filter_map(differences::row).collect();
    for difference in listed.all() {
        let row = rows.get(difference.id.as_str()).unwrap_or_else(|| panic!("docs/compatibility.md has no row for `{}`", difference.id));
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        assert!(cells.contains(&difference.verdict.as_str()), "`{}`: the document must say {:?}: {row}", difference.id, difference.verdict);
        assert!(cells.contains(&difference.reason.trim()), "`{}`: the document must give the same reason", difference.id);
    }
    for id in rows.keys() {
        assert!(listed.ids().any(|listed| listed == *id), "docs/compatibility.md lists `{id}`, differences.yaml does not");
    }
}

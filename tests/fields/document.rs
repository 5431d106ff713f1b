//! The tables of docs/compatibility.md that the walk makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    fs,
    path::PathBuf,
};

use super::stage::Outcome;

const BEGIN: &str = "<!-- Written by tests/fields: begin -->\n";
const END: &str = "<!-- Written by tests/fields: end -->\n";

/// Compares the document with what the walk found, or writes it.
pub(super) fn compare(outcomes: &BTreeMap<String, Outcome>, silent: &BTreeMap<String, String>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the line where the tables begin");
    let (stands, after) = rest.split_once(END).expect("the line where the tables end");
    let written = tables(outcomes, silent);
    if env::var_os("UPDATE_GOLDEN").is_some() && env::var_os("FIELD").is_none() {
        fs::write(&path, [before, BEGIN, &written, END, after].concat()).unwrap();
    } else if env::var_os("FIELD").is_none() {
        assert_eq!(stands, written, "docs/compatibility.md is stale: UPDATE_GOLDEN=1 cargo test --test offline fields");
    }
}

fn tables(outcomes: &BTreeMap<String, Outcome>, silent: &BTreeMap<String, String>) -> String {
    let applied = outcomes.values().filter(|outcome| **outcome == Outcome::Applied).count();
    let mut told: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for (field, outcome) in outcomes {
        if let Outcome::Told { at, message } = outcome {
            let (kind, _) = field.split_once(' ').unwrap();
            told.entry((kind, message)).or_default().insert(format!("`{}`", shown(at)));
        }
    }
    let mut text = format!(
        "Of {} fields {applied} change what some proxy is sent, or is injected. These do not, or are refused, and a finding at the object says so:\n\n\
         | Kind | Fields | Finding |\n|---|---|---|\n",
        outcomes.len()
    );
    for ((kind, message), fields) in &told {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        writeln!(text, "| {kind} | {} | {} |", fields.join(", "), message.replace('|', "\\|")).unwrap();
    }
    text.push_str("\nThese change nothing, and nobody is told, for the reason given:\n\n| Kind | Field | Reason |\n|---|---|---|\n");
    for (field, reason) in silent {
        let (kind, path) = field.split_once(' ').unwrap();
        writeln!(text, "| {kind} | `{}` | {reason} |", shown(path)).unwrap();
    }
    text
}

/// Returns a path as it is printed. A traffic policy stands in four places, which are all the same to it.
fn shown(path: &str) -> String {
    let path = path.strip_prefix("spec.").or(path.strip_prefix("data.")).unwrap_or(path).replace('~', ".");
    // A finding about the object as a whole is found at each of its fields.
    if path == "spec" {
        return "(all of it)".to_owned();
    }
    match path.split_once("trafficPolicy.") {
        Some((_, policy)) => format!("trafficPolicy.{}", policy.strip_prefix("portLevelSettings[].").unwrap_or(policy)),
        None => path,
    }
}

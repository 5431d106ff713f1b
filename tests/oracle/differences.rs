//! The differences that are known, each with its reason.

use std::{fs, path::PathBuf};

use regex_lite::Regex;
use serde::Deserialize;

/// `differences.yaml`
pub(crate) struct Differences(Vec<(Difference, Regex)>);

/// One entry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Difference {
    /// By which the document names it.
    pub(crate) id: String,
    /// Matches `case type/name:path`, or `case type/name` for a resource that only one side has.
    pub(crate) pattern: String,
    /// `better`, `equal` (another spelling of the same), or `not yet`.
    pub(crate) verdict: String,
    /// Why.
    pub(crate) reason: String,
}

impl Differences {
    pub(crate) fn load() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/differences.yaml");
        let text = fs::read_to_string(path).unwrap();
        let entries: Option<Vec<Difference>> = serde_norway::from_str(&text).unwrap();
        let compile = |entry: Difference| {
            assert!(["better", "equal", "not yet"].contains(&entry.verdict.as_str()), "{}: verdict {:?}", entry.id, entry.verdict);
            let regex = Regex::new(&entry.pattern).unwrap();
            (entry, regex)
        };
        Self(entries.unwrap_or_default().into_iter().map(compile).collect())
    }

    /// Returns the entry that names a difference.
    pub(crate) fn find(&self, case: &str, path: &str) -> Option<&str> {
        let subject = format!("{case} {path}");
        self.0.iter().find(|(_, regex)| regex.is_match(&subject)).map(|(entry, _)| entry.id.as_str())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(entry, _)| entry.id.as_str())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Difference> {
        self.0.iter().map(|(entry, _)| entry)
    }
}

/// Returns a row of the document's table of differences: its id (in backquotes in the first cell) and the whole row.
pub(crate) fn row(line: &str) -> Option<(&str, &str)> {
    let id = line.strip_prefix("| `")?.split_once('`')?.0;
    Some((id, line))
}

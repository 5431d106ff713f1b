//! What `docs/metrics.md` has.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;

/// Labels that a scrape adds to every series.
const OF_THE_SCRAPE: [&str; 5] = ["app", "instance", "job", "namespace", "pod"];

/// The labels of every series, by its name.
pub(super) struct Documented(BTreeMap<String, BTreeSet<String>>);

impl Documented {
    /// Reads the page of metrics.
    pub(super) fn read() -> Self {
        Self::parse(&super::text("docs/metrics.md"))
    }

    /// Reads the rows of tables that begin with a name, a type and labels.
    pub(super) fn parse(page: &str) -> Self {
        let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let &[name, kind, labels, ..] = cells.as_slice() else { continue };
            let own = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
            let labels: BTreeSet<String> = own.chain(OF_THE_SCRAPE).map(str::to_owned).collect();
            let name = name.trim_matches('`');
            match kind {
                "counter" | "gauge" => series.entry(name.to_owned()).or_default().extend(labels),
                "histogram" => {
                    series.insert(format!("{name}_sum"), labels.clone());
                    series.insert(format!("{name}_count"), labels.clone());
                    series.insert(format!("{name}_bucket"), labels.into_iter().chain(["le".to_owned()]).collect());
                }
                // A table of something else.
                _ => {}
            }
        }
        Self(series)
    }

    /// Returns the labels of the series that a selector by name selects; `None`: there is no such series.
    pub(super) fn labels(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name)
    }

    /// Returns the labels that any series has whose name matches; `None`: none does.
    pub(super) fn labels_of_matching(&self, pattern: &str) -> Option<BTreeSet<String>> {
        let pattern = Regex::new(&format!("^(?:{pattern})$")).ok()?;
        let mut found = self.0.iter().filter(|(name, _)| pattern.is_match(name)).peekable();
        found.peek()?;
        Some(found.flat_map(|(_, labels)| labels.clone()).collect())
    }
}

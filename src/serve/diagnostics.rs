//! The findings that stand: said once in the log, counted in metrics, shown under `/debug/diagnostics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use smol_str::SmolStr;
use tokio::sync::watch;

use crate::{
    api::{Diagnostic, Location, ObjectKey, Severity},
    source::locations::ObjectLocations,
};

/// All findings that stand now, by who found them.
#[derive(Debug, Default)]
pub struct Standing {
    found: Mutex<Found>,
    listed: watch::Sender<Arc<Vec<Diagnostic>>>,
    /// How many stand, by severity: `istiod_lite_diagnostics`.
    pub gauges: Family<[(&'static str, &'static str); 1], Gauge>,
}

#[derive(Debug, Default)]
struct Found {
    // Each with the words in which it was told: when it is mended, its object may be nowhere any more.
    by_finder: BTreeMap<Finder, BTreeMap<Diagnostic, String>>,
    // Told at the moment of showing: an object that moves in its file is no new finding.
    locations: ObjectLocations,
}

/// Who found it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finder {
    /// A source: reading and checking single objects.
    Source(SmolStr),
    /// Checking objects against each other.
    Mesh,
    /// Making configuration for the proxies that are connected.
    Translation,
}

impl Standing {
    /// These findings replace those of the same finder before. What is new is logged, and so is what is mended.
    pub fn replace(&self, finder: Finder, findings: impl IntoIterator<Item = Diagnostic>) {
        let findings: BTreeSet<Diagnostic> = findings.into_iter().collect();
        let mut found = self.found.lock();
        let mut before = found.by_finder.remove(&finder).unwrap_or_default();
        let mut now = BTreeMap::new();
        let mut news = false;
        for finding in findings {
            let told = before.remove(&finding).unwrap_or_else(|| {
                news = true;
                let words = found.locations.locate(finding.clone()).to_string();
                match finding.severity {
                    Severity::Error => tracing::error!("{words}"),
                    Severity::Warning => tracing::warn!("{words}"),
                }
                words
            });
            now.insert(finding, told);
        }
        for mended in before.values() {
            tracing::info!("no longer: {mended}");
        }
        news |= !before.is_empty();
        found.by_finder.insert(finder, now);
        for (severity, label) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
            let count = found.all().filter(|finding| finding.severity == severity).count();
            self.gauges.get_or_create(&[("severity", label)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if news {
            self.listed.send_replace(Arc::new(found.located()));
        }
    }

    /// All findings that stand, sorted, now and whenever they change; those of objects in files name the place.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Vec<Diagnostic>>> {
        self.listed.subscribe()
    }

    /// Takes news of where objects are written, for findings that do not know it.
    pub fn note_locations(&self, news: Vec<(ObjectKey, Option<Location>)>) {
        self.found.lock().locations.note(news);
    }

    /// One line each, errors first.
    pub fn lines(&self) -> Vec<String> {
        self.found.lock().located().iter().map(ToString::to_string).collect()
    }
}

impl Found {
    fn all(&self) -> impl Iterator<Item = &Diagnostic> {
        self.by_finder.values().flat_map(BTreeMap::keys)
    }

    fn located(&self) -> Vec<Diagnostic> {
        let mut all: Vec<Diagnostic> = self.all().map(|finding| self.locations.locate(finding.clone())).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_one_finder_replace_each_other() {
        let standing = Standing::default();
        standing.replace(Finder::Source("a".into()), vec![Diagnostic::error("spec", "bad")]);
        standing.replace(Finder::Source("b".into()), vec![Diagnostic::error("spec", "worse")]);
        standing.replace(Finder::Mesh, vec![Diagnostic::warning("spec.host", "unknown")]);
        standing.replace(Finder::Source("a".into()), vec![]);
        assert_eq!(standing.lines(), ["error: spec: worse", "warning: spec.host: unknown"]);
        let mut listed = standing.subscribe();
        assert_eq!(listed.borrow_and_update().iter().map(ToString::to_string).collect::<Vec<_>>(), standing.lines());
        standing.replace(Finder::Mesh, vec![Diagnostic::warning("spec.host", "unknown")]);
        assert!(!listed.has_changed().unwrap(), "nothing is new");
        assert_eq!(standing.gauges.get_or_create(&[("severity", "error")]).get(), 1);
        assert_eq!(standing.gauges.get_or_create(&[("severity", "warning")]).get(), 1);
    }

    #[test]
    fn a_finding_is_shown_with_the_place_of_its_object() {
        let key = ObjectKey { cluster: "c".into(), kind: crate::api::Kind::Gateway, namespace: "shop".into(), name: "public".into() };
        let standing = Standing::default();
        standing.replace(Finder::Mesh, [Diagnostic::warning("spec", "doubtful").of(&key)]);
        standing.note_locations(vec![(key, Some(Location { file: "g.yaml".into(), document: 3 }))]);
        assert_eq!(standing.lines(), ["warning: Gateway.networking.istio.io/shop/public (g.yaml, document 3) spec: doubtful"]);
    }
}

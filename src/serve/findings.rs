//! What is wrong with objects now: logged once, counted in metrics, shown under `/debug/diagnostics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use smol_str::SmolStr;
use tokio::sync::watch;

use super::finding_log::FindingLog;
use crate::{
    api::{Diagnostic, Location, ObjectKey, Severity},
    metrics::MetricLabels,
    source::locations::ObjectLocations,
    xds::ledger::Refusal,
};

/// The findings that hold now, by who reported them.
#[derive(Debug, Default)]
pub(super) struct CurrentFindings {
    reported: Mutex<Reported>,
    sorted: watch::Sender<Arc<Vec<Diagnostic>>>,
    by_severity: Family<MetricLabels<1, &'static str>, Gauge>,
}

#[derive(Debug, Default)]
struct Reported {
    /// With the message that was logged: when a finding is mended, its object may be gone from all files.
    by_reporter: BTreeMap<Reporter, BTreeMap<Diagnostic, String>>,
    /// Looked up when findings are shown: an object that moves in its file is no new finding.
    locations: ObjectLocations,
}

/// Who reports a finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reporter {
    /// A source: it reads and checks single objects.
    Source(SmolStr),
    /// The mesh: it checks objects against each other.
    Mesh,
    /// The translation: it makes configuration for the proxies that are connected.
    Translation,
    /// The proxies that are connected: they refuse what is made of an object.
    Proxies,
}

impl CurrentFindings {
    /// Registers the number of findings by severity.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("istiod_lite_diagnostics", "Findings that stand, by severity", self.by_severity.clone());
    }

    /// Replaces what `reporter` found before by `findings`; logs what is new and what is mended.
    pub(super) fn replace(&self, reporter: Reporter, findings: impl IntoIterator<Item = Diagnostic>) {
        let findings: BTreeSet<Diagnostic> = findings.into_iter().collect();
        let mut reported = self.reported.lock();
        let mut before = reported.by_reporter.remove(&reporter).unwrap_or_default();
        let mut now = BTreeMap::new();
        let (mut changed, mut log) = (false, FindingLog::default());
        for finding in findings {
            let message = before.remove(&finding).unwrap_or_else(|| {
                changed = true;
                let message = reported.locations.locate(finding.clone()).to_string();
                log.new_finding(&finding, &message);
                message
            });
            now.insert(finding, message);
        }
        for message in before.values() {
            log.mended(message);
        }
        log.finish();
        changed |= !before.is_empty();
        reported.by_reporter.insert(reporter, now);
        for (severity, label) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
            let count = reported.all().filter(|finding| finding.severity == severity).count();
            self.by_severity.get_or_create(&[("severity", label)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if changed {
            self.sorted.send_replace(Arc::new(reported.located(reported.of_objects())));
        }
    }

    /// Returns all findings but those of the proxies (who subscribes to these hears of refusals from the ledger), sorted, now
    /// and whenever they change; those about objects in files name the place.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<Diagnostic>>> {
        self.sorted.subscribe()
    }

    /// Records where objects are written now, for findings that do not say it.
    pub(super) fn update_locations(&self, changes: Vec<(ObjectKey, Option<Location>)>) {
        self.reported.lock().locations.note(changes);
    }

    /// Returns one line for each finding, errors first.
    pub(super) fn lines(&self) -> Vec<String> {
        let reported = self.reported.lock();
        reported.located(reported.all()).iter().map(ToString::to_string).collect()
    }
}

impl Reported {
    fn all(&self) -> impl Iterator<Item = &Diagnostic> {
        self.by_reporter.values().flat_map(BTreeMap::keys)
    }

    fn of_objects(&self) -> impl Iterator<Item = &Diagnostic> {
        self.by_reporter.iter().filter(|(reporter, _)| **reporter != Reporter::Proxies).flat_map(|(_, found)| found.keys())
    }

    /// Returns these findings, sorted, each with the place of its object.
    fn located<'a>(&self, findings: impl Iterator<Item = &'a Diagnostic>) -> Vec<Diagnostic> {
        let mut located: Vec<Diagnostic> = findings.map(|finding| self.locations.locate(finding.clone())).collect();
        located.sort();
        located
    }
}

/// Returns what proxies refuse as findings at the objects that it was made of.
pub(super) fn refusals(refused: &[Refusal]) -> impl Iterator<Item = Diagnostic> {
    refused.iter().map(|Refusal { object, kind, error }| {
        Diagnostic::error("", format!("proxies refuse what is made of it ({}) and keep what they had: {error}", kind.as_str())).of(object)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::resource_type::ResourceType;

    #[test]
    fn findings_of_one_reporter_replace_each_other() {
        let findings = CurrentFindings::default();
        findings.replace(Reporter::Source("a".into()), vec![Diagnostic::error("spec", "bad")]);
        findings.replace(Reporter::Source("b".into()), vec![Diagnostic::error("spec", "worse")]);
        findings.replace(Reporter::Mesh, vec![Diagnostic::warning("spec.host", "unknown")]);
        findings.replace(Reporter::Source("a".into()), vec![]);
        assert_eq!(findings.lines(), ["error: spec: worse", "warning: spec.host: unknown"]);
        let mut sorted = findings.subscribe();
        assert_eq!(sorted.borrow_and_update().iter().map(ToString::to_string).collect::<Vec<_>>(), findings.lines());
        findings.replace(Reporter::Mesh, vec![Diagnostic::warning("spec.host", "unknown")]);
        assert!(!sorted.has_changed().unwrap(), "nothing is new");
        assert_eq!(findings.by_severity.get_or_create(&[("severity", "error")]).get(), 1);
        assert_eq!(findings.by_severity.get_or_create(&[("severity", "warning")]).get(), 1);
    }

    #[test]
    fn a_refusal_is_a_finding_at_its_object() {
        let object = ObjectKey { cluster: "c".into(), kind: crate::api::Kind::VirtualService, namespace: "shop".into(), name: "a".into() };
        let refused = [Refusal { object, kind: ResourceType::Route, error: "no\u{1b}[2J".into() }];
        let findings = CurrentFindings::default();
        findings.replace(Reporter::Proxies, refusals(&refused));
        let told = r"error: VirtualService/shop/a: proxies refuse what is made of it (rds) and keep what they had: no\u{1b}[2J";
        assert_eq!(findings.lines(), [told]);
        assert!(findings.subscribe().borrow().is_empty());
        assert_eq!(findings.by_severity.get_or_create(&[("severity", "error")]).get(), 1);
        findings.replace(Reporter::Proxies, refusals(&[]));
        assert!(findings.lines().is_empty());
    }

    #[test]
    fn a_finding_is_shown_with_the_place_of_its_object() {
        let key = ObjectKey { cluster: "c".into(), kind: crate::api::Kind::Gateway, namespace: "shop".into(), name: "public".into() };
        let findings = CurrentFindings::default();
        findings.replace(Reporter::Mesh, [Diagnostic::warning("spec", "doubtful").of(&key)]);
        findings.update_locations(vec![(key, Some(Location { file: "g.yaml".into(), document: 3 }))]);
        assert_eq!(findings.lines(), ["warning: Gateway.networking.istio.io/shop/public (g.yaml, document 3) spec: doubtful"]);
    }
}

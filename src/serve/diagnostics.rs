//! The findings that stand: said once in the log, counted in metrics, shown under `/debug/diagnostics`.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use prometheus_client::metrics::{family::Family, gauge::Gauge};

use crate::api::{Diagnostic, Severity};

/// All findings that stand now, by who found them.
#[derive(Debug, Default)]
pub struct Standing {
    /// From the source: what could not be read or was refused.
    source: Mutex<BTreeSet<Diagnostic>>,
    /// From checks across objects.
    mesh: Mutex<BTreeSet<Diagnostic>>,
    /// How many stand, by severity: `istiod_lite_diagnostics`.
    pub gauges: Family<[(&'static str, &'static str); 1], Gauge>,
}

/// Who found it.
#[derive(Clone, Copy, Debug)]
pub enum Finder {
    /// Reading and checking single objects.
    Source,
    /// Checking objects against each other.
    Mesh,
}

impl Standing {
    /// These findings replace those of the same finder before. What is new is logged, and so is what is mended.
    pub fn replace(&self, finder: Finder, found: Vec<Diagnostic>) {
        let found: BTreeSet<Diagnostic> = found.into_iter().collect();
        {
            let mut standing = match finder {
                Finder::Source => self.source.lock(),
                Finder::Mesh => self.mesh.lock(),
            };
            for new in found.difference(&standing) {
                match new.severity {
                    Severity::Error => tracing::error!("{new}"),
                    Severity::Warning => tracing::warn!("{new}"),
                }
            }
            for mended in standing.difference(&found) {
                tracing::info!("no longer: {mended}");
            }
            *standing = found;
        }
        self.count();
    }

    /// One line each, errors first.
    pub fn lines(&self) -> Vec<String> {
        let mut all: Vec<Diagnostic> = self.source.lock().iter().chain(self.mesh.lock().iter()).cloned().collect();
        all.sort();
        all.iter().map(ToString::to_string).collect()
    }

    fn count(&self) {
        for (severity, label) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
            let of = |set: &Mutex<BTreeSet<Diagnostic>>| set.lock().iter().filter(|finding| finding.severity == severity).count();
            let count = of(&self.source) + of(&self.mesh);
            self.gauges.get_or_create(&[("severity", label)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_one_finder_replace_each_other() {
        let standing = Standing::default();
        standing.replace(Finder::Source, vec![Diagnostic::error("spec", "bad")]);
        standing.replace(Finder::Mesh, vec![Diagnostic::warning("spec.host", "unknown")]);
        standing.replace(Finder::Source, vec![]);
        assert_eq!(standing.lines(), ["warning: spec.host: unknown"]);
        assert_eq!(standing.gauges.get_or_create(&[("severity", "error")]).get(), 0);
        assert_eq!(standing.gauges.get_or_create(&[("severity", "warning")]).get(), 1);
    }
}

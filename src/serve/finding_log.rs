//! Writes findings to the log, but no more of one object or of one round than a person reads: all are in `/debug/diagnostics`.

use std::collections::BTreeMap;

use crate::api::{Diagnostic, ObjectKey, Severity};

/// How many lines an object gets in one round.
const MOST_OF_OBJECT: usize = 20;
/// How many lines a round gets.
const MOST: usize = 500;

/// What is logged of one round of findings.
#[derive(Default)]
pub(super) struct FindingLog {
    of_objects: BTreeMap<Option<ObjectKey>, usize>,
    lines: usize,
    left_out: usize,
}

impl FindingLog {
    /// Logs a new finding.
    pub(super) fn new_finding(&mut self, finding: &Diagnostic, message: &str) {
        let of_object = self.of_objects.entry(finding.object.clone()).or_default();
        *of_object += 1;
        let is_loud = *of_object > MOST_OF_OBJECT;
        if !self.has_place(is_loud) {
            return;
        }
        match finding.severity {
            Severity::Error => tracing::error!("{message}"),
            Severity::Warning => tracing::warn!("{message}"),
        }
    }

    /// Logs that a finding is mended.
    pub(super) fn mended(&mut self, message: &str) {
        if self.has_place(false) {
            tracing::info!("no longer: {message}");
        }
    }

    /// Logs how many findings were not logged; returns it.
    pub(super) fn finish(self) -> usize {
        if self.left_out > 0 {
            tracing::warn!("{} more findings came or went and are not logged: /debug/diagnostics lists those that stand", self.left_out);
        }
        self.left_out
    }

    /// Counts a line, as one that is logged or one that is left out.
    fn has_place(&mut self, is_loud: bool) -> bool {
        let has_place = !is_loud && self.lines < MOST;
        *if has_place { &mut self.lines } else { &mut self.left_out } += 1;
        has_place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    fn of(name: &str) -> Diagnostic {
        let object = ObjectKey { cluster: "c".into(), kind: Kind::Gateway, namespace: "shop".into(), name: name.into() };
        Diagnostic::warning("spec", "doubtful").of(&object)
    }

    #[test]
    fn one_object_gets_so_many_lines_and_the_others_theirs() {
        let mut log = FindingLog::default();
        for _ in 0..60_000 {
            log.new_finding(&of("loud"), "doubtful");
        }
        log.new_finding(&of("other"), "doubtful");
        assert_eq!((log.lines, log.left_out), (MOST_OF_OBJECT + 1, 60_000 - MOST_OF_OBJECT));
        assert_eq!(log.finish(), 60_000 - MOST_OF_OBJECT);
    }

    #[test]
    fn a_round_gets_so_many_lines() {
        let mut log = FindingLog::default();
        for number in 0..400 {
            log.new_finding(&of(&number.to_string()), "doubtful");
            log.mended("doubtful");
        }
        assert_eq!(log.finish(), 800 - MOST);
    }
}

//! Reports what is wrong with each object. Pure.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, ObjectKey, Severity},
    peer_text::PeerText,
    xds::ledger::Refusal,
};

/// Everything that is wrong with one object, the most serious first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The lines of the report; empty if nothing is wrong.
    pub(super) lines: Vec<ReportLine>,
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReportLine {
    /// How serious it is.
    pub(super) reason: ConditionReason,
    /// The path of the field; empty for the object as a whole.
    pub(super) field: String,
    /// What is wrong.
    pub(super) message: String,
}

/// The reason of a condition or an Event, the most serious first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConditionReason {
    /// The object, or a part of it, is not applied.
    Refused,
    /// Proxies refuse the configuration that is made of the object.
    RefusedByProxies,
    /// The object is applied in spite of a warning.
    Doubtful,
    /// Nothing is wrong.
    Accepted,
}

/// The longest field and message of one line, which the note of an Event has both of: it has at most 1 kB, or is not taken.
const LONGEST_FIELD: usize = 250;
const LONGEST_MESSAGE: usize = 750;

/// Makes the report about each object of a cluster from the findings and the refusals of proxies. Findings about files are only
/// in the log.
pub(super) fn reports(findings: &[Diagnostic], refusals: &[Refusal], cluster: &SmolStr) -> BTreeMap<ObjectKey, Report> {
    let mut lines: BTreeMap<ObjectKey, Vec<ReportLine>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.location.is_none()) {
        let Some(object) = finding.object.as_ref().filter(|object| object.cluster == *cluster) else { continue };
        lines.entry(object.clone()).or_default().push(ReportLine::of(finding));
    }
    for refusal in refusals.iter().filter(|refusal| refusal.object.cluster == *cluster) {
        let message = format!("proxies refuse what is made of it ({}): {}", refusal.kind.as_str(), refusal.error);
        let message = shortened(message, LONGEST_MESSAGE);
        lines.entry(refusal.object.clone()).or_default().push(ReportLine {
            reason: ConditionReason::RefusedByProxies,
            field: String::new(),
            message,
        });
    }
    lines.into_iter().map(|(object, lines)| (object, Report::new(lines))).collect()
}

impl Report {
    /// Makes a report that nothing is wrong.
    pub(super) fn accepted() -> Self {
        Self { lines: Vec::new() }
    }

    fn new(mut lines: Vec<ReportLine>) -> Self {
        lines.sort();
        lines.dedup();
        Self { lines }
    }

    /// Returns the reason of the most serious line.
    pub(super) fn reason(&self) -> ConditionReason {
        self.lines.first().map_or(ConditionReason::Accepted, |line| line.reason)
    }
}

impl ReportLine {
    /// Makes the line which says that nothing is wrong any more.
    pub(super) fn mended() -> Self {
        Self { reason: ConditionReason::Accepted, field: String::new(), message: "the earlier findings no longer apply".to_owned() }
    }

    fn of(finding: &Diagnostic) -> Self {
        let reason = match finding.severity {
            Severity::Error => ConditionReason::Refused,
            Severity::Warning => ConditionReason::Doubtful,
        };
        let shown = |text: &str, longest| shortened(PeerText::new(text).to_string(), longest);
        Self { reason, field: shown(&finding.field, LONGEST_FIELD), message: shown(&finding.message, LONGEST_MESSAGE) }
    }

    /// Returns the line as text: `spec.http[0].timeout: must be …`.
    pub(super) fn text(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

impl ConditionReason {
    /// Returns the word that users see.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "Refused",
            Self::RefusedByProxies => "RefusedByProxies",
            Self::Doubtful => "Doubtful",
            Self::Accepted => "Accepted",
        }
    }

    /// Returns whether the object is applied.
    pub(super) fn is_accepted(self) -> bool {
        matches!(self, Self::Doubtful | Self::Accepted)
    }
}

/// Cuts a text that is too long for an Event.
fn shortened(mut text: String, longest: usize) -> String {
    if let Some((cut, _)) = text.char_indices().take_while(|(at, _)| *at <= longest).last().filter(|_| text.len() > longest) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Kind, Location},
        xds::resource_type::ResourceType,
    };

    fn object(name: &str) -> ObjectKey {
        ObjectKey { cluster: "c".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn the_gravest_line_decides_and_each_is_said_once() {
        let doubt = Diagnostic::warning("spec.hosts", "doubtful").of(&object("a"));
        let wrong = Diagnostic::error("spec", "wrong").of(&object("a"));
        let refused = Refusal { object: object("b"), kind: ResourceType::Route, error: "no".into() };
        let all = reports(&[doubt.clone(), wrong, doubt], &[refused.clone(), refused], &"c".into());
        assert_eq!(all.keys().collect::<Vec<_>>(), [&object("a"), &object("b")]);
        let a = &all[&object("a")];
        assert_eq!(a.lines.iter().map(ReportLine::text).collect::<Vec<_>>(), ["spec: wrong", "spec.hosts: doubtful"]);
        assert_eq!((a.reason(), a.reason().is_accepted()), (ConditionReason::Refused, false));
        let b = &all[&object("b")];
        assert_eq!(b.lines.iter().map(ReportLine::text).collect::<Vec<_>>(), ["proxies refuse what is made of it (rds): no"]);
    }

    #[test]
    fn files_and_other_clusters_are_not_written_about() {
        let file = Diagnostic::error("", "x").of(&object("a")).at(&Location { file: "a.yaml".into(), document: 1 });
        let nameless = Diagnostic::error("", "x");
        let elsewhere = Diagnostic::error("", "x").of(&ObjectKey { cluster: "d".into(), ..object("a") });
        let refused_elsewhere =
            Refusal { object: ObjectKey { cluster: "d".into(), ..object("b") }, kind: ResourceType::Route, error: "no".into() };
        assert_eq!(reports(&[file, nameless, elsewhere], &[refused_elsewhere], &"c".into()), BTreeMap::new());
    }

    #[test]
    fn a_line_is_short_enough_for_an_event_and_cut_at_a_character() {
        for field in ["".to_owned(), "spec".to_owned(), format!("spec.{}", "ö".repeat(1_000)), "\u{1b}".repeat(1_000)] {
            for message in ["wrong".to_owned(), "ü".repeat(1_000), "\u{202e}\n".repeat(1_000)] {
                let long = Diagnostic::error(field.as_str(), message.as_str()).of(&object("a"));
                let refused = Refusal { object: object("a"), kind: ResourceType::Route, error: PeerText::new(&message) };
                for line in &reports(&[long], &[refused], &"c".into())[&object("a")].lines {
                    let text = line.text();
                    assert!(text.len() <= 1024 && *PeerText::new(&text) == *text, "{} bytes: {text}", text.len());
                    assert!(message == "wrong" || text.ends_with('…'), "{text}");
                }
            }
        }
    }
}

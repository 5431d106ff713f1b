//! What is to be said of each object. Pure.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, ObjectKey, Severity},
    xds::ledger::Refusal,
};

/// All that is to be said of one object, the gravest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Empty: nothing is wrong.
    pub(super) lines: Vec<Line>,
}

/// One thing that is to be said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// How grave it is.
    pub(super) reason: Reason,
    /// The field; empty for the object as a whole.
    pub(super) field: String,
    /// What is wrong.
    pub(super) message: String,
}

/// The reason of a condition or an Event, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// It is not applied; what was good before is served.
    Refused,
    /// Proxies refuse what is made of it.
    RefusedByProxies,
    /// It is applied, with a note.
    Doubtful,
    /// Nothing is wrong.
    Accepted,
}

/// The longest text of one line: an Event takes 1 kB.
const LONGEST: usize = 900;

/// What the findings and the refusals of proxies say of each object of a cluster. What was read from a file is told to
/// those who read logs.
pub(super) fn reports(findings: &[Diagnostic], refusals: &[Refusal], cluster: &SmolStr) -> BTreeMap<ObjectKey, Report> {
    let mut lines: BTreeMap<ObjectKey, Vec<Line>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.location.is_none()) {
        let Some(object) = finding.object.as_ref().filter(|object| object.cluster == *cluster) else { continue };
        lines.entry(object.clone()).or_default().push(Line::of(finding));
    }
    for refusal in refusals.iter().filter(|refusal| refusal.object.cluster == *cluster) {
        let message = shortened(format!("proxies refuse what is made of it ({}): {}", refusal.kind.as_str(), refusal.error));
        lines.entry(refusal.object.clone()).or_default().push(Line { reason: Reason::RefusedByProxies, field: String::new(), message });
    }
    lines.into_iter().map(|(object, lines)| (object, Report::new(lines))).collect()
}

impl Report {
    /// Nothing is wrong.
    pub(super) fn accepted() -> Self {
        Self { lines: Vec::new() }
    }

    fn new(mut lines: Vec<Line>) -> Self {
        lines.sort();
        lines.dedup();
        Self { lines }
    }

    /// That of the gravest line.
    pub(super) fn reason(&self) -> Reason {
        self.lines.first().map_or(Reason::Accepted, |line| line.reason)
    }
}

impl Line {
    /// That nothing is wrong any more.
    pub(super) fn mended() -> Self {
        Self { reason: Reason::Accepted, field: String::new(), message: "what was said of it no longer holds".to_owned() }
    }

    fn of(finding: &Diagnostic) -> Self {
        let reason = match finding.severity {
            Severity::Error => Reason::Refused,
            Severity::Warning => Reason::Doubtful,
        };
        Self { reason, field: finding.field.clone(), message: shortened(finding.message.clone()) }
    }

    /// `spec.http[0].timeout: must be …`
    pub(super) fn text(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

impl Reason {
    /// The word that users see.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "Refused",
            Self::RefusedByProxies => "RefusedByProxies",
            Self::Doubtful => "Doubtful",
            Self::Accepted => "Accepted",
        }
    }

    /// Whether the object has effect.
    pub(super) fn is_accepted(self) -> bool {
        matches!(self, Self::Doubtful | Self::Accepted)
    }
}

fn shortened(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().take_while(|(at, _)| *at <= LONGEST).last().filter(|_| text.len() > LONGEST) {
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
        assert_eq!(a.lines.iter().map(Line::text).collect::<Vec<_>>(), ["spec: wrong", "spec.hosts: doubtful"]);
        assert_eq!((a.reason(), a.reason().is_accepted()), (Reason::Refused, false));
        let b = &all[&object("b")];
        assert_eq!(b.lines.iter().map(Line::text).collect::<Vec<_>>(), ["proxies refuse what is made of it (rds): no"]);
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
    fn long_messages_are_cut_at_a_character() {
        let long = Diagnostic::error("", "ü".repeat(1_000)).of(&object("a"));
        let text = reports(&[long], &[], &"c".into())[&object("a")].lines[0].text();
        assert!(text.len() <= LONGEST + 5 && text.ends_with("ü…"), "{}", text.len());
    }
}

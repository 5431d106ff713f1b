//! Which objects are to be written about, and when. The current time is passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::report::{Report, ReportLine};
use crate::api::ObjectKey;

/// How long an error must last before it is written: one that is mended at once is none.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a warning must last. Longer, as it often goes away with the rest of the same `kubectl apply`, or when pods start.
const SETTLE_WARNING: Duration = Duration::from_secs(5);
/// How long to wait after a write that failed.
const RETRY: Duration = Duration::from_secs(10);
/// When an object is looked at again after a write: it may have a new generation with the same mistake.
const VERIFY: Duration = Duration::from_secs(60);
/// When an Event is repeated. The API server deletes Events after an hour.
const REPEAT: Duration = Duration::from_secs(30 * 60);

/// The reports that are wanted, what was last written, and which objects are due.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    wanted: BTreeMap<ObjectKey, Report>,
    written: BTreeMap<ObjectKey, LastWritten>,
    due: BTreeSet<(Instant, ObjectKey)>,
    due_at: BTreeMap<ObjectKey, Instant>,
}

/// What was last written about an object.
#[derive(Debug, Default)]
struct LastWritten {
    /// The lines of which there are Events, and when they were written.
    events: BTreeMap<ReportLine, Instant>,
}

/// What is to be written about one object.
#[derive(Debug)]
pub(super) struct Write {
    /// The report; `None` if nothing is wrong any more.
    pub(super) report: Option<Report>,
    /// Whether there are Events that say that something is wrong.
    pub(super) has_events: bool,
    /// The lines of which there are recent Events.
    recent: BTreeSet<ReportLine>,
}

impl WorkQueue {
    /// Sets the reports of all objects.
    pub(super) fn set_reports(&mut self, reports: BTreeMap<ObjectKey, Report>, now: Instant) {
        let before = std::mem::replace(&mut self.wanted, reports);
        let new = self.wanted.iter().filter(|(key, report)| before.get(*key) != Some(*report));
        let new = new.map(|(key, report)| (key.clone(), if report.reason().is_accepted() { SETTLE_WARNING } else { SETTLE }));
        let gone = before.keys().filter(|key| !self.wanted.contains_key(*key)).map(|key| (key.clone(), SETTLE));
        for (key, settle) in new.chain(gone).collect::<Vec<_>>() {
            self.schedule(key, now + settle);
        }
    }

    /// Adds an object about which an earlier leader wrote.
    pub(super) fn adopt(&mut self, key: ObjectKey, now: Instant) {
        self.written.entry(key.clone()).or_default();
        self.schedule(key, now + SETTLE);
    }

    /// Returns when the next object is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Returns what to write about the first object that is due at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Option<(ObjectKey, Write)> {
        while self.due().is_some_and(|at| at <= now) {
            let (_, key) = self.due.pop_first()?;
            self.due_at.remove(&key);
            let (report, written) = (self.wanted.get(&key).cloned(), self.written.get(&key));
            if report.is_none() && written.is_none() {
                continue;
            }
            let events = written.map(|written| &written.events);
            let recent = events.into_iter().flatten().filter(|(_, at)| now.duration_since(**at) < REPEAT).map(|(line, _)| line.clone());
            let has_events = events.is_some_and(|events| !events.is_empty());
            return Some((key, Write { report, has_events, recent: recent.collect() }));
        }
        None
    }

    /// Records that a write succeeded, with Events of these lines.
    pub(super) fn succeeded(&mut self, key: ObjectKey, write: &Write, events: Vec<ReportLine>, now: Instant) {
        let Some(report) = &write.report else {
            self.written.remove(&key);
            return;
        };
        let written = self.written.entry(key.clone()).or_default();
        written.events.retain(|line, _| report.lines.contains(line));
        written.events.extend(events.into_iter().map(|line| (line, now)));
        self.schedule(key, now + VERIFY);
    }

    /// Records that a write failed, so that it is tried again.
    pub(super) fn failed(&mut self, key: ObjectKey, now: Instant) {
        self.schedule(key, now + RETRY);
    }

    /// Makes an object due at this time, unless it is due earlier.
    fn schedule(&mut self, key: ObjectKey, at: Instant) {
        match self.due_at.get(&key) {
            Some(before) if *before <= at => return,
            Some(before) => _ = self.due.remove(&(*before, key.clone())),
            None => {}
        }
        self.due_at.insert(key.clone(), at);
        self.due.insert((at, key));
    }
}

impl Write {
    /// Returns those of the first `most` lines that have no recent Event, the most serious first.
    pub(super) fn new_lines(&self, most: usize) -> Vec<ReportLine> {
        let lines = self.report.iter().flat_map(|report| report.lines.iter());
        lines.take(most).filter(|line| !self.recent.contains(*line)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Kind, status::report::ConditionReason};

    fn object(name: &str) -> ObjectKey {
        ObjectKey { cluster: "c".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: name.into() }
    }

    fn line(message: &str) -> ReportLine {
        ReportLine { reason: ConditionReason::Refused, field: "spec".into(), message: message.into() }
    }

    fn wrong(name: &str, messages: &[&str]) -> BTreeMap<ObjectKey, Report> {
        [(object(name), Report { lines: messages.iter().map(|message| line(message)).collect() })].into()
    }

    #[test]
    fn what_is_mended_at_once_is_not_written_about() {
        let (mut queue, start) = (WorkQueue::default(), Instant::now());
        queue.set_reports(wrong("a", &["x"]), start);
        assert!(queue.next(start).is_none() && queue.due() == Some(start + SETTLE));
        queue.set_reports(BTreeMap::new(), start);
        assert!(queue.next(start + SETTLE).is_none() && queue.due().is_none());
    }

    #[test]
    fn each_line_has_one_event_until_it_would_be_deleted() {
        let (mut queue, start) = (WorkQueue::default(), Instant::now());
        queue.set_reports(wrong("a", &["x"]), start);
        let mut now = start + SETTLE;
        let mut events = Vec::new();
        while now < start + Duration::from_secs(3_000) {
            if let Some((key, write)) = queue.next(now) {
                events.push(write.new_lines(5));
                queue.succeeded(key, &write, write.new_lines(5), now);
                queue.set_reports(wrong("a", &["x", "y"]), now);
            }
            now = queue.due().unwrap();
        }
        events.retain(|lines| !lines.is_empty());
        assert_eq!(events, [vec![line("x")], vec![line("y")], vec![line("x"), line("y")]]);
    }

    #[test]
    fn what_is_mended_is_written_once() {
        let (mut queue, start) = (WorkQueue::default(), Instant::now());
        queue.set_reports(wrong("a", &["x"]), start);
        let (key, write) = queue.next(start + SETTLE).unwrap();
        queue.succeeded(key, &write, write.new_lines(5), start + SETTLE);
        queue.set_reports(BTreeMap::new(), start + SETTLE);
        let (key, write) = queue.next(start + SETTLE + SETTLE).unwrap();
        assert!(write.report.is_none() && write.has_events && write.new_lines(5).is_empty());
        queue.succeeded(key, &write, Vec::new(), start + SETTLE);
        assert!(queue.next(start + VERIFY + VERIFY).is_none() && queue.due().is_none());
    }

    #[test]
    fn what_fails_is_tried_again_and_what_was_taken_over_is_looked_at() {
        let (mut queue, start) = (WorkQueue::default(), Instant::now());
        queue.adopt(object("a"), start);
        let (key, write) = queue.next(start + SETTLE).unwrap();
        assert!(write.report.is_none() && !write.has_events);
        queue.failed(key, start);
        assert_eq!(queue.due(), Some(start + RETRY));
        assert_eq!(queue.next(start + RETRY).unwrap().0, object("a"));
    }
}

//! What is still to be written, and when. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::report::{Line, Report};
use crate::api::ObjectKey;

/// What is wrong must stay so for this long: a mistake that is mended at once is none.
const SETTLE: Duration = Duration::from_secs(1);
/// What is doubtful must stay so for longer: it often waits for what the same `kubectl apply` brings, or for pods to start.
const SETTLE_DOUBT: Duration = Duration::from_secs(5);
/// What could not be written is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);
/// What is written is looked at again: the object may have a new generation with the same mistake.
const VERIFY: Duration = Duration::from_secs(60);
/// The API server forgets Events after an hour.
const REPEAT: Duration = Duration::from_secs(30 * 60);

/// What there is to say, what was said, and which objects are due.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    wanted: BTreeMap<ObjectKey, Report>,
    said: BTreeMap<ObjectKey, Said>,
    due: BTreeSet<(Instant, ObjectKey)>,
    due_at: BTreeMap<ObjectKey, Instant>,
}

/// What was said of an object.
#[derive(Debug, Default)]
struct Said {
    /// Lines that Events told of, and when.
    told: BTreeMap<Line, Instant>,
}

/// One object to be written about.
#[derive(Debug)]
pub(super) struct Task {
    /// What is to be said; `None`: nothing is wrong any more.
    pub(super) report: Option<Report>,
    /// Whether Events have told that something is wrong.
    pub(super) was_told: bool,
    fresh: BTreeSet<Line>,
}

impl Agenda {
    /// This is all there is to say now.
    pub(super) fn want(&mut self, reports: BTreeMap<ObjectKey, Report>, now: Instant) {
        let before = std::mem::replace(&mut self.wanted, reports);
        let new = self.wanted.iter().filter(|(key, report)| before.get(*key) != Some(*report));
        let new = new.map(|(key, report)| (key.clone(), if report.reason().is_accepted() { SETTLE_DOUBT } else { SETTLE }));
        let gone = before.keys().filter(|key| !self.wanted.contains_key(*key)).map(|key| (key.clone(), SETTLE));
        for (key, settle) in new.chain(gone).collect::<Vec<_>>() {
            self.plan(key, now + settle);
        }
    }

    /// Something was said of this object before we came.
    pub(super) fn adopt(&mut self, key: ObjectKey, now: Instant) {
        self.said.entry(key.clone()).or_default();
        self.plan(key, now + SETTLE);
    }

    /// When the next object is due.
    pub(super) fn when(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The object that is due, if one is.
    pub(super) fn next(&mut self, now: Instant) -> Option<(ObjectKey, Task)> {
        while self.when().is_some_and(|at| at <= now) {
            let (_, key) = self.due.pop_first()?;
            self.due_at.remove(&key);
            let (report, said) = (self.wanted.get(&key).cloned(), self.said.get(&key));
            if report.is_none() && said.is_none() {
                continue;
            }
            let told = said.map(|said| &said.told);
            let fresh = told.into_iter().flatten().filter(|(_, at)| now.duration_since(**at) < REPEAT).map(|(line, _)| line.clone());
            let task = Task { report, was_told: told.is_some_and(|told| !told.is_empty()), fresh: fresh.collect() };
            return Some((key, task));
        }
        None
    }

    /// The task is carried out, and Events told of these lines.
    pub(super) fn done(&mut self, key: ObjectKey, task: &Task, told: Vec<Line>, now: Instant) {
        let Some(report) = &task.report else {
            self.said.remove(&key);
            return;
        };
        let said = self.said.entry(key.clone()).or_default();
        said.told.retain(|line, _| report.lines.contains(line));
        said.told.extend(told.into_iter().map(|line| (line, now)));
        self.plan(key, now + VERIFY);
    }

    /// The task could not be carried out.
    pub(super) fn failed(&mut self, key: ObjectKey, now: Instant) {
        self.plan(key, now + RETRY);
    }

    // Whatever comes first.
    fn plan(&mut self, key: ObjectKey, at: Instant) {
        match self.due_at.get(&key) {
            Some(before) if *before <= at => return,
            Some(before) => _ = self.due.remove(&(*before, key.clone())),
            None => {}
        }
        self.due_at.insert(key.clone(), at);
        self.due.insert((at, key));
    }
}

impl Task {
    /// The lines that no Event of late told of, the gravest first.
    pub(super) fn untold(&self, most: usize) -> Vec<Line> {
        let lines = self.report.iter().flat_map(|report| report.lines.iter());
        lines.take(most).filter(|line| !self.fresh.contains(*line)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Kind, status::report::Reason};

    fn object(name: &str) -> ObjectKey {
        ObjectKey { cluster: "c".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: name.into() }
    }

    fn line(message: &str) -> Line {
        Line { reason: Reason::Refused, field: "spec".into(), message: message.into() }
    }

    fn wrong(name: &str, messages: &[&str]) -> BTreeMap<ObjectKey, Report> {
        [(object(name), Report { lines: messages.iter().map(|message| line(message)).collect() })].into()
    }

    #[test]
    fn what_is_mended_at_once_is_not_written_about() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        agenda.want(wrong("a", &["x"]), start);
        assert!(agenda.next(start).is_none() && agenda.when() == Some(start + SETTLE));
        agenda.want(BTreeMap::new(), start);
        assert!(agenda.next(start + SETTLE).is_none() && agenda.when().is_none());
    }

    #[test]
    fn each_line_is_told_once_until_it_would_be_forgotten() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        agenda.want(wrong("a", &["x"]), start);
        let mut now = start + SETTLE;
        let mut told = Vec::new();
        while now < start + Duration::from_secs(3_000) {
            if let Some((key, task)) = agenda.next(now) {
                told.push(task.untold(5));
                agenda.done(key, &task, task.untold(5), now);
                agenda.want(wrong("a", &["x", "y"]), now);
            }
            now = agenda.when().unwrap();
        }
        told.retain(|lines| !lines.is_empty());
        assert_eq!(told, [vec![line("x")], vec![line("y")], vec![line("x"), line("y")]]);
    }

    #[test]
    fn what_is_mended_is_written_once() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        agenda.want(wrong("a", &["x"]), start);
        let (key, task) = agenda.next(start + SETTLE).unwrap();
        agenda.done(key, &task, task.untold(5), start + SETTLE);
        agenda.want(BTreeMap::new(), start + SETTLE);
        let (key, task) = agenda.next(start + SETTLE + SETTLE).unwrap();
        assert!(task.report.is_none() && task.was_told && task.untold(5).is_empty());
        agenda.done(key, &task, Vec::new(), start + SETTLE);
        assert!(agenda.next(start + VERIFY + VERIFY).is_none() && agenda.when().is_none());
    }

    #[test]
    fn what_fails_is_tried_again_and_what_was_taken_over_is_looked_at() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        agenda.adopt(object("a"), start);
        let (key, task) = agenda.next(start + SETTLE).unwrap();
        assert!(task.report.is_none() && !task.was_told);
        agenda.failed(key, start);
        assert_eq!(agenda.when(), Some(start + RETRY));
        assert_eq!(agenda.next(start + RETRY).unwrap().0, object("a"));
    }
}

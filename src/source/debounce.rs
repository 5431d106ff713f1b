//! Gathers changes, so that a burst becomes one batch. The current time is passed in.
//!
//! Endpoint changes wait for 5 ms at most, since they come in bursts and are needed at once. All other changes wait for a
//! quiet period (`PILOT_DEBOUNCE_AFTER`) but no longer than `PILOT_DEBOUNCE_MAX`, as in istiod. The two groups do not wait
//! for each other, with one exception: changes that were pushed together stay together, because a backend that is removed
//! must keep its endpoints until its routes are gone too.

use std::{mem, time::Duration};

use rustc_hash::FxHashSet;
use tokio::time::Instant;

use super::Change;
use crate::api::{Kind, ObjectKey};

/// How long changes are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The quiet period that ends a batch.
    pub after: Duration,
    /// The longest time that a change waits.
    pub max: Duration,
    /// The longest time that an endpoint change waits.
    pub endpoints: Duration,
}

/// The changes that are waiting.
#[derive(Debug)]
pub(crate) struct Debounce {
    settings: Settings,
    endpoints: Waiting,
    others: Waiting,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    /// When the first and the last of them were pushed.
    since: Option<(Instant, Instant)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { after: Duration::from_millis(100), max: Duration::from_secs(10), endpoints: Duration::from_millis(5) }
    }
}

impl Debounce {
    /// Makes a debouncer without changes.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, endpoints: Waiting::default(), others: Waiting::default() }
    }

    /// Adds changes that arrived together at `now`.
    pub(crate) fn push(&mut self, changes: Vec<Change>, now: Instant) {
        let endpoints_alone = changes.iter().all(is_endpoint);
        // The newer state of an object must not overtake an older one that is waiting.
        let held_back: FxHashSet<ObjectKey> = match endpoints_alone {
            true => self.others.changes.iter().filter(|waiting| is_endpoint(waiting)).map(Change::key).cloned().collect(),
            false => FxHashSet::default(),
        };
        for change in changes {
            let ahead = endpoints_alone && !held_back.contains(change.key());
            let waiting = if ahead { &mut self.endpoints } else { &mut self.others };
            waiting.changes.push(change);
            waiting.since = Some((waiting.since.map_or(now, |(first, _)| first), now));
        }
    }

    /// Returns when [`take`](Self::take) has something to return; `None` if nothing is waiting.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.endpoints_due().into_iter().chain(self.others_due()).min()
    }

    /// Returns the changes that are due at `now`, and when the oldest of them was pushed; `None` if none are due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Vec<Change>, Instant)> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (endpoints, others) = (due(self.endpoints_due()), due(self.others_due()));
        let mut taken: Option<(Vec<Change>, Instant)> = None;
        for waiting in
            [(others, &mut self.others), (endpoints, &mut self.endpoints)].into_iter().filter_map(|(due, list)| due.then_some(list))
        {
            let Some((first, _)) = waiting.since.take() else { continue };
            let (changes, since) = taken.get_or_insert((Vec::new(), first));
            // The vector is moved instead of copied: the first batch holds all objects, and none is so large again.
            match changes.is_empty() {
                true => *changes = mem::take(&mut waiting.changes),
                false => changes.extend(mem::take(&mut waiting.changes)),
            }
            *since = first.min(*since);
        }
        taken
    }

    /// Returns all changes that are waiting, whether due or not.
    pub(crate) fn take_all(&mut self) -> Option<(Vec<Change>, Instant)> {
        let latest = [&self.endpoints, &self.others].into_iter().filter_map(|waiting| waiting.since).map(|(_, last)| last).max()?;
        self.take(latest + self.settings.max.max(self.settings.after).max(self.settings.endpoints))
    }

    fn endpoints_due(&self) -> Option<Instant> {
        self.endpoints.since.map(|(first, _)| first + self.settings.endpoints)
    }

    fn others_due(&self) -> Option<Instant> {
        self.others.since.map(|(first, last)| (last + self.settings.after).min(first + self.settings.max))
    }
}

fn is_endpoint(change: &Change) -> bool {
    matches!(change.key().kind, Kind::EndpointSlice | Kind::Pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(kind: Kind) -> Vec<Change> {
        vec![Change::Deleted(ObjectKey { cluster: "Kubernetes".into(), kind, namespace: "a".into(), name: "b".into() })]
    }

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn quiet_ends_a_batch_and_a_limit_ends_noise() {
        let start = Instant::now();
        let settings = Settings { after: 100 * MS, max: 250 * MS, endpoints: 5 * MS };
        let mut debounce = Debounce::new(settings);
        assert_eq!(debounce.due(), None);
        debounce.push(gone(Kind::VirtualService), start);
        debounce.push(gone(Kind::VirtualService), start + 80 * MS);
        assert!(debounce.take(start + 170 * MS).is_none(), "not quiet for long enough");
        debounce.push(gone(Kind::VirtualService), start + 170 * MS);
        debounce.push(gone(Kind::VirtualService), start + 240 * MS);
        assert_eq!(debounce.due(), Some(start + 250 * MS), "the limit counts from the first change");
        let (changes, since) = debounce.take(start + 250 * MS).unwrap();
        assert_eq!((changes.len(), since), (4, start));
        assert_eq!(debounce.due(), None);
    }

    #[tokio::test]
    async fn endpoints_do_not_wait_for_configuration() {
        let start = Instant::now();
        let mut debounce = Debounce::new(Settings::default());
        debounce.push(gone(Kind::Service), start);
        debounce.push(gone(Kind::EndpointSlice), start + MS);
        assert_eq!(debounce.due(), Some(start + 6 * MS));
        let (changes, _) = debounce.take(start + 6 * MS).unwrap();
        assert_eq!(changes, gone(Kind::EndpointSlice));
        assert_eq!(debounce.due(), Some(start + 100 * MS));
    }

    #[tokio::test]
    async fn what_came_in_one_step_is_one_batch() {
        let start = Instant::now();
        let mut debounce = Debounce::new(Settings::default());
        let step = [gone(Kind::Service), gone(Kind::EndpointSlice)].concat();
        debounce.push(step.clone(), start);
        debounce.push(gone(Kind::EndpointSlice), start + MS);
        assert_eq!(debounce.due(), Some(start + 101 * MS), "neither the step's endpoints nor their newer state go ahead");
        assert_eq!(debounce.take(start + 101 * MS).unwrap().0, [step, gone(Kind::EndpointSlice)].concat());
    }
}

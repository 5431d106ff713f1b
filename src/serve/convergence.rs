//! How long a change takes, from the moment that it was seen to the last proxy's ACK.

use std::collections::{BTreeSet, VecDeque};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{metrics::histogram::Histogram, registry::Registry};
use serde::Serialize;
use smol_str::SmolStr;

use crate::{
    api::ObjectKey,
    xds::{
        ledger::{Observer, ProxyConnection},
        session::Event,
    },
};

/// How many changes are remembered.
const REMEMBERED: usize = 256;
/// How many of a change's objects are named.
pub(super) const NAMED: usize = 20;

/// The recent changes and who has acknowledged them.
#[derive(Debug)]
pub(super) struct Convergence {
    /// The recent changes, oldest first.
    changes: Mutex<VecDeque<Tracked>>,
    /// Seconds from a change until a proxy had acknowledged it.
    seconds: Histogram,
}

#[derive(Debug)]
struct Tracked {
    record: Record,
    /// Proxies that were sent something because of it and have not acknowledged all of it.
    awaited: BTreeSet<SmolStr>,
}

/// A change, as `/debug/convergence` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Record {
    /// The generation of the world that has the change.
    pub change: u64,
    /// The objects that changed, `Kind/namespace/name`; at most 20 are named.
    pub objects: Vec<String>,
    /// When the first of them was seen, Unix milliseconds.
    pub seen_unix_ms: i64,
    /// When the batch was published to sessions (after debounce and translation), Unix milliseconds.
    pub published_unix_ms: i64,
    /// When the last proxy acknowledged, Unix milliseconds; absent while some have not.
    pub last_ack_unix_ms: Option<i64>,
    /// `seen_unix_ms` to the microsecond.
    pub seen_unix_us: i64,
    /// `published_unix_ms` to the microsecond.
    pub published_unix_us: i64,
    /// `last_ack_unix_ms` to the microsecond.
    pub last_ack_unix_us: Option<i64>,
    /// How many proxies the change concerned.
    pub proxies: usize,
    /// How many have yet to acknowledge.
    pub awaited: usize,
}

impl Default for Convergence {
    fn default() -> Self {
        Self { changes: Mutex::default(), seconds: Histogram::new([0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0]) }
    }
}

impl Convergence {
    /// Registers the histogram of how long proxies take.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Seconds from a change until a proxy had acknowledged it";
        registry.register("pilot_proxy_convergence_time", help, self.seconds.clone());
    }

    /// Records that a batch became the world `change`, and which proxies it concerns.
    pub(super) fn published(&self, change: u64, objects: &[ObjectKey], seen: Timestamp, now: Timestamp, proxies: Vec<SmolStr>) {
        let mut changes = self.changes.lock();
        if changes.len() == REMEMBERED {
            changes.pop_front();
        }
        let record = Record {
            change,
            objects: objects.iter().take(NAMED).map(ToString::to_string).collect(),
            seen_unix_ms: seen.as_millisecond(),
            published_unix_ms: now.as_millisecond(),
            last_ack_unix_ms: proxies.is_empty().then(|| now.as_millisecond()),
            seen_unix_us: seen.as_microsecond(),
            published_unix_us: now.as_microsecond(),
            last_ack_unix_us: proxies.is_empty().then(|| now.as_microsecond()),
            proxies: proxies.len(),
            awaited: proxies.len(),
        };
        changes.push_back(Tracked { record, awaited: proxies.into_iter().collect() });
    }

    /// Records that a proxy has acknowledged everything that it was owed up to the world `change`.
    pub(super) fn acknowledged(&self, proxy: &str, change: u64, now: Timestamp) {
        for seen in self.settle(proxy, |tracked| tracked.record.change <= change, now) {
            self.seconds.observe(now.duration_since(seen).as_secs_f64().max(0.0));
        }
    }

    /// Records that a proxy is gone, so that no change waits for it.
    pub(super) fn gone(&self, proxy: &str, now: Timestamp) {
        self.settle(proxy, |_| true, now);
    }

    /// Returns the recent changes, oldest first.
    pub(super) fn records(&self) -> Vec<Record> {
        self.changes.lock().iter().map(|tracked| tracked.record.clone()).collect()
    }

    /// Stops waiting for the proxy, and returns when the changes that waited for it were seen.
    fn settle(&self, proxy: &str, concerned: impl Fn(&Tracked) -> bool, now: Timestamp) -> Vec<Timestamp> {
        let mut seen = Vec::new();
        for tracked in self.changes.lock().iter_mut().filter(|tracked| concerned(tracked)) {
            if tracked.awaited.remove(proxy) {
                seen.extend(Timestamp::from_microsecond(tracked.record.seen_unix_us).ok());
                tracked.record.awaited = tracked.awaited.len();
                if tracked.awaited.is_empty() {
                    tracked.record.last_ack_unix_ms = Some(now.as_millisecond());
                    tracked.record.last_ack_unix_us = Some(now.as_microsecond());
                }
            }
        }
        seen
    }
}

impl Observer for Convergence {
    fn recorded(&self, connection: &ProxyConnection, event: &Event, now: Timestamp) {
        if let Event::Current { generation } = event
            && connection.proven
        {
            self.acknowledged(&connection.proxy, *generation, now);
        }
    }

    fn disconnected(&self, connection: &ProxyConnection, now: Timestamp) {
        if connection.proven {
            self.gone(&connection.proxy, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn a_change_has_converged_with_the_last_ack() {
        let convergence = Convergence::default();
        convergence.published(7, &[], at(1_000), at(1_010), vec!["a.x".into(), "b.x".into()]);
        convergence.acknowledged("a.x", 7, at(1_020));
        convergence.acknowledged("b.x", 6, at(1_030));
        assert_eq!(convergence.records()[0].last_ack_unix_ms, None);
        convergence.acknowledged("b.x", 9, at(1_040));
        let record = &convergence.records()[0];
        assert_eq!((record.last_ack_unix_ms, record.awaited, record.proxies), (Some(1_040), 0, 2));
    }

    #[test]
    fn nobody_waits_for_a_proxy_that_is_gone() {
        let convergence = Convergence::default();
        convergence.published(1, &[], at(0), at(0), vec!["a.x".into()]);
        convergence.gone("a.x", at(5));
        assert_eq!(convergence.records()[0].last_ack_unix_ms, Some(5));
    }
}

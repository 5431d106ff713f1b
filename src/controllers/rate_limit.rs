//! Limits how often each object is written: at once if nobody else wrote it for a long time, and ever more slowly if a user or
//! another control plane keeps changing it back.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// The shortest time between two writes.
const FIRST: Duration = Duration::from_millis(200);
/// The longest time between two writes.
const LONGEST: Duration = Duration::from_secs(60);
/// An object that was left alone for this long starts again at [`FIRST`].
const FORGET: Duration = Duration::from_secs(300);

/// The last attempt to write each object.
#[derive(Debug)]
pub(super) struct RateLimit<K> {
    attempts: BTreeMap<K, WriteAttempt>,
}

#[derive(Clone, Copy, Debug)]
struct WriteAttempt {
    at: Instant,
    pause: Duration,
}

// === impl RateLimit ===

impl<K: Ord + Clone> RateLimit<K> {
    /// Makes a limit without attempts.
    pub(super) fn new() -> Self {
        Self { attempts: BTreeMap::new() }
    }

    /// Returns whether the object may be written now. If so, this counts as an attempt.
    pub(super) fn allows(&mut self, key: &K, now: Instant) -> bool {
        let pause = match self.attempts.get(key) {
            Some(last) if now < last.at + last.pause => return false,
            Some(last) if now < last.at + FORGET => (last.pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.attempts.insert(key.clone(), WriteAttempt { at: now, pause });
        true
    }

    /// Returns when the first of these objects may be written.
    pub(super) fn next<'a>(&self, keys: impl IntoIterator<Item = &'a K>, now: Instant) -> Option<Instant>
    where
        K: 'a,
    {
        keys.into_iter().map(|key| self.attempts.get(key).map_or(now, |last| last.at + last.pause)).min()
    }

    /// Forgets attempts that are too old to matter.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.attempts.retain(|_, last| now < last.at + FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_gets_slower_and_peace_is_answered_at_once() {
        let (mut limit, start) = (RateLimit::new(), Instant::now());
        let mut writes = Vec::new();
        for tenths in 0..6_000 {
            let now = start + Duration::from_millis(100 * tenths);
            if limit.allows(&"object", now) {
                writes.push(now);
            }
        }
        assert!((10..25).contains(&writes.len()), "{} writes in ten minutes", writes.len());
        let gaps: Vec<_> = writes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap <= LONGEST + Duration::from_millis(100)) && gaps.is_sorted(), "{gaps:?}");
        assert!(limit.allows(&"another", start), "others do not wait");
        let later = start + Duration::from_secs(600) + FORGET;
        assert!(limit.allows(&"object", later) && limit.allows(&"object", later + FIRST), "forgotten");
        limit.forget_old(later + FORGET * 2);
        assert!(limit.attempts.is_empty());
    }

    #[test]
    fn it_says_when_to_look_again() {
        let (mut limit, now) = (RateLimit::new(), Instant::now());
        assert_eq!(limit.next([], now), None);
        assert_eq!(limit.next([&1], now), Some(now));
        limit.allows(&1, now);
        assert_eq!(limit.next([&1], now), Some(now + FIRST));
    }
}

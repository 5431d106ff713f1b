//! How often one object may be written: at once when it was left alone for long, ever more slowly when somebody (or
//! another control plane) keeps writing something else.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(60);
/// An object that was left alone for so long starts anew.
const FORGET: Duration = Duration::from_secs(300);

/// Remembers attempts by object.
#[derive(Debug)]
pub(super) struct Pace<K> {
    attempts: BTreeMap<K, Attempt>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    pause: Duration,
}

// === impl Pace ===

impl<K: Ord + Clone> Pace<K> {
    /// Knows of no attempts.
    pub(super) fn new() -> Self {
        Self { attempts: BTreeMap::new() }
    }

    /// Whether the object may be written now. If so this counts as an attempt.
    pub(super) fn may(&mut self, key: &K, now: Instant) -> bool {
        let pause = match self.attempts.get(key) {
            Some(last) if now < last.at + last.pause => return false,
            Some(last) if now < last.at + FORGET => (last.pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.attempts.insert(key.clone(), Attempt { at: now, pause });
        true
    }

    /// When the first of these objects may be written.
    pub(super) fn next<'a>(&self, keys: impl IntoIterator<Item = &'a K>, now: Instant) -> Option<Instant>
    where
        K: 'a,
    {
        keys.into_iter().map(|key| self.attempts.get(key).map_or(now, |last| last.at + last.pause)).min()
    }

    /// Forgets attempts that say nothing any more.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.attempts.retain(|_, last| now < last.at + FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_gets_slower_and_peace_is_answered_at_once() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        let mut writes = Vec::new();
        for tenths in 0..6_000 {
            let now = start + Duration::from_millis(100 * tenths);
            if pace.may(&"object", now) {
                writes.push(now);
            }
        }
        assert!((10..25).contains(&writes.len()), "{} writes in ten minutes", writes.len());
        let gaps: Vec<_> = writes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap <= LONGEST + Duration::from_millis(100)) && gaps.is_sorted(), "{gaps:?}");
        assert!(pace.may(&"another", start), "others do not wait");
        let later = start + Duration::from_secs(600) + FORGET;
        assert!(pace.may(&"object", later) && pace.may(&"object", later + FIRST), "forgotten");
        pace.tidy(later + FORGET * 2);
        assert!(pace.attempts.is_empty());
    }

    #[test]
    fn it_says_when_to_look_again() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        assert_eq!(pace.next([], now), None);
        assert_eq!(pace.next([&1], now), Some(now));
        pace.may(&1, now);
        assert_eq!(pace.next([&1], now), Some(now + FIRST));
    }
}

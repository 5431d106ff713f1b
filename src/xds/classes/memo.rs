//! Remembers results by their whole input, so that the same translation is never done twice and a stale result cannot
//! exist.

use std::{collections::hash_map::Entry, hash::Hash, sync::Arc};

use rustc_hash::FxHashMap;

use crate::metrics::ExactCounter;

/// Results by input. An entry lives at least as long as somebody else holds its result.
#[derive(Debug)]
pub(super) struct Memo<I, R> {
    entries: FxHashMap<I, R>,
    /// Counts the results that were made.
    made: ExactCounter,
    /// The size at which unused entries are dropped next.
    sweep_at: usize,
}

const SWEEP_AT_LEAST: usize = 1024;

/// A result that is shared with whoever asked for it.
pub(super) trait Shared: Clone {
    /// Returns whether anybody else has it.
    fn is_held(&self) -> bool;
}

impl<T> Shared for Arc<T> {
    fn is_held(&self) -> bool {
        Arc::strong_count(self) > 1
    }
}

impl<I, R> Memo<I, R> {
    /// Makes an empty memo that counts what it makes.
    pub(super) fn counting(made: ExactCounter) -> Self {
        Self { entries: FxHashMap::default(), made, sweep_at: SWEEP_AT_LEAST }
    }
}

impl<I: Eq + Hash, R: Shared> Memo<I, R> {
    /// Returns the result for `input`, which `make` makes if it is not known.
    pub(super) fn get(&mut self, input: I, make: impl FnOnce(&I) -> R) -> R {
        let vacant = match self.entries.entry(input) {
            Entry::Occupied(known) => return known.get().clone(),
            Entry::Vacant(vacant) => vacant,
        };
        let result = make(vacant.key());
        self.made.inc();
        vacant.insert(result.clone());
        self.sweep();
        result
    }

    // Doubling keeps the cost of sweeping proportional to what was inserted.
    fn sweep(&mut self) {
        if self.entries.len() >= self.sweep_at {
            self.drop_unused();
        }
    }

    /// Lets go of all results that nobody else holds.
    pub(super) fn drop_unused(&mut self) {
        self.entries.retain(|_, result| result.is_held());
        self.entries.shrink_to(self.entries.len() * 2);
        self.sweep_at = (self.entries.len() * 2).max(SWEEP_AT_LEAST);
    }

    /// Returns how many results are remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_input_is_not_made_again() {
        let made = ExactCounter::default();
        let mut memo = Memo::counting(made.clone());
        let first = memo.get(7, |n| Arc::new(n * 2));
        let second = memo.get(7, |_| unreachable!());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(made.get(), 1);
    }

    #[test]
    fn results_that_nobody_holds_are_dropped() {
        let mut memo = Memo::counting(ExactCounter::default());
        let held = memo.get(0, |n| Arc::new(*n));
        for n in 1..10 * SWEEP_AT_LEAST {
            memo.get(n, |n| Arc::new(*n));
        }
        assert!(memo.entries.len() <= SWEEP_AT_LEAST, "{}", memo.entries.len());
        assert!(Arc::ptr_eq(&held, &memo.get(0, |_| unreachable!())));
    }
}

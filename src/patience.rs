//! Lets a long computation be told that nobody waits for it any more.
//!
//! A thread that computes cannot be stopped from outside. Loops whose length users choose therefore ask whether the patience of
//! whoever started them is over, and end with what they have: the result is thrown away. The pure rooms ask, too, as nothing that
//! is computed *within* patience depends on it; who sets the deadline knows the clock.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

thread_local! {
    static CURRENT: RefCell<Option<Patience>> = const { RefCell::new(None) };
}

/// The patience that somebody has with a computation. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<AtomicBool>);

/// Ends an iterator when the patience is over.
pub trait Patient: Iterator + Sized {
    /// Yields items as long as somebody waits for the result.
    fn patiently(self) -> impl Iterator<Item = Self::Item> {
        self.take_while(|_| !is_over())
    }
}

impl<I: Iterator> Patient for I {}

/// Returns whether the patience with what this thread computes is over. It never is where nobody said so.
pub fn is_over() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(Patience::has_ended))
}

impl Patience {
    /// Ends it, from any thread.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Computes with this patience. Returns `None` if it ended meanwhile: then the result may be incomplete.
    pub fn compute<T>(&self, computation: impl FnOnce() -> T) -> Option<T> {
        let _within = Within(CURRENT.replace(Some(self.clone())));
        let result = computation();
        (!self.has_ended()).then_some(result)
    }

    fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Puts back the patience from before, also when a computation panics.
struct Within(Option<Patience>);

impl Drop for Within {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computation_is_told_that_the_patience_with_it_is_over() {
        let patience = Patience::default();
        assert_eq!(patience.compute(is_over), Some(false));
        let mut steps = 0;
        let result = patience.compute(|| {
            while !is_over() {
                steps += 1;
                if steps == 10 {
                    patience.end();
                }
            }
        });
        assert_eq!((result, steps, is_over()), (None, 10, false));
        let endless = Patience::default();
        let counted = endless.compute(|| std::iter::repeat(()).patiently().inspect(|()| endless.end()).count());
        assert_eq!(counted, None);
        assert_eq!(Patience::default().compute(|| patience.compute(is_over)), Some(None));
    }
}

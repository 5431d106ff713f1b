//! How long to wait before the next attempt.
//!
//! Not kube's `backon`: it adds its jitter on top of a delay, where ours keeps below it, so that a maximum is one.

use std::time::Duration;

/// The share of a delay that jitter takes away at most, where nothing else is chosen.
const JITTER: f64 = 0.25;

/// Exponential backoff: each delay is twice the one before, up to a maximum, less a random part.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    maximum: Duration,
    jitter: f64,
    failures: u32,
}

/// Returns a number from 0 (inclusive) to 1 (exclusive) from the system's random source.
pub(crate) fn random_unit() -> f64 {
    let mut bytes = [0_u8; 4];
    // Without randomness the delays are merely equal.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

impl Backoff {
    /// Makes a backoff that starts at `first`, never exceeds `maximum`, and takes up to a quarter off each delay.
    pub(crate) fn new(first: Duration, maximum: Duration) -> Self {
        Self { first, maximum, jitter: JITTER, failures: 0 }
    }

    /// Takes up to this share, from 0 to 1, off each delay instead.
    pub(crate) fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter: jitter.clamp(0.0, 1.0), ..self }
    }

    /// Returns the delay after one more failure. `random`, from 0 to 1, says how much of the jitter is taken off.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let delay = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.maximum);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 - self.jitter * random.clamp(0.0, 1.0))
    }

    /// Starts again at the first delay.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<u128> = (0..6).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_millis(75));
        assert_eq!(backoff.with_jitter(0.5).next(1.0), Duration::from_millis(100));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        for _ in 0..100 {
            assert!(backoff.next(0.5) <= Duration::from_secs(30));
        }
    }

    #[test]
    fn random_numbers_differ_and_stay_in_range() {
        let numbers: Vec<f64> = (0..10).map(|_| random_unit()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        assert!(numbers.windows(2).any(|pair| pair[0] != pair[1]));
    }
}

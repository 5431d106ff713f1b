//! How long to wait before asking again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// Each delay is twice the one before, up to five seconds, less a random part of up to a half: the collections do not
/// ask all at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after one more failure; `random` is from 0 to 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let delay = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 - 0.5 * random.clamp(0.0, 1.0))
    }

    /// It went well: starts again at the first delay.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1 from the system's random source.
pub(super) fn random() -> f64 {
    let mut bytes = [0_u8; 4];
    // Without randomness the delays are merely equal.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_again() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..7).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_millis(100));
    }
}

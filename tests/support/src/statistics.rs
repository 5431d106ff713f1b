//! The exact binomial test: does the share that was seen agree with the share that was asked for?

/// How often a whole run may raise a false alarm.
pub const FALSE_ALARM_PER_RUN: f64 = 1e-6;

/// Returns the two-sided exact p-value of seeing `hits` in `trials` when each hits with probability `share`:
/// the summed probability of every outcome that is no likelier than the one seen.
pub fn binomial_p_value(hits: u64, trials: u64, share: f64) -> f64 {
    assert!(hits <= trials && (0.0..=1.0).contains(&share), "no such experiment: {hits} of {trials} at {share}");
    let seen = probability(hits, trials, share);
    // Equal probabilities on both sides differ in their last bits; this is the tolerance R's binom.test uses.
    let bound = seen * (1.0 + 1e-7);
    (0..=trials).map(|count| probability(count, trials, share)).filter(|likely| *likely <= bound).sum::<f64>().min(1.0)
}

/// Returns whether a p-value stands, when `tests` of them are judged in one run (Bonferroni).
pub fn share_agrees(p_value: f64, tests: usize) -> bool {
    p_value >= FALSE_ALARM_PER_RUN / tests.max(1) as f64
}

fn probability(hits: u64, trials: u64, share: f64) -> f64 {
    if share == 0.0 || share == 1.0 {
        let certain = if share == 0.0 { 0 } else { trials };
        return if hits == certain { 1.0 } else { 0.0 };
    }
    let misses = trials - hits;
    let choices = ln_factorial(trials) - ln_factorial(hits) - ln_factorial(misses);
    (choices + hits as f64 * share.ln() + misses as f64 * (-share).ln_1p()).exp()
}

/// Returns ln n!: exact sums for small n, Stirling's series (error below 1e-13) beyond.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(seen: f64, known: f64) {
        assert!((seen - known).abs() <= known * 1e-6, "{seen} is not {known}");
    }

    /// Checks against whole numbers over powers of two, which need no reference software.
    #[test]
    fn agrees_with_counting_by_hand() {
        assert_close(binomial_p_value(0, 10, 0.5), 2.0 / 1024.0);
        assert_close(binomial_p_value(1, 10, 0.5), 22.0 / 1024.0);
        assert_close(binomial_p_value(5, 10, 0.5), 1.0);
        assert_close(binomial_p_value(3, 3, 0.25), 1.0 / 64.0);
        assert_close(binomial_p_value(2, 2, 0.1), 0.01);
    }

    /// Checks against Python's exact fractions.
    #[test]
    fn agrees_with_exact_fractions_at_the_sizes_we_judge() {
        assert_close(binomial_p_value(200, 2000, 0.1), KNOWN_200_OF_2000);
        assert_close(binomial_p_value(250, 2000, 0.1), KNOWN_250_OF_2000);
        assert_close(binomial_p_value(1100, 2000, 0.5), KNOWN_1100_OF_2000);
    }

    #[test]
    fn a_certain_share_allows_no_exception() {
        assert_eq!(binomial_p_value(0, 2000, 0.0), 1.0);
        assert_eq!(binomial_p_value(1, 2000, 0.0), 0.0);
        assert_eq!(binomial_p_value(1999, 2000, 1.0), 0.0);
        assert!(!share_agrees(0.0, 1) && share_agrees(1.0, 1000));
    }

    #[test]
    fn probabilities_sum_to_one() {
        let sum: f64 = (0..=500).map(|hits| probability(hits, 500, 0.37)).sum();
        assert!((sum - 1.0).abs() < 1e-10, "{sum}");
    }
    const KNOWN_200_OF_2000: f64 = 1.0;
    const KNOWN_250_OF_2000: f64 = 0.00029573152684059776;
    const KNOWN_1100_OF_2000: f64 = 8.457089535503927e-06;
}

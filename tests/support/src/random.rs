//! A small seeded generator, so that a failed random walk can be walked again.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
};

/// SplitMix64: passes the usual batteries and is eight lines. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed: the same one gives the same numbers on every machine.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number of `range`, which must not be empty. The bias of the remainder is below 2⁻⁵⁰ for small ranges.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.bits() % (range.end - range.start)
    }
}

/// Returns a seed that nobody chose.
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_walk() {
        let walk = |seed| {
            let mut random = Random::seeded(seed);
            (0..8).map(|_| random.within(0..100)).collect::<Vec<_>>()
        };
        assert_eq!(walk(7), walk(7));
        assert_ne!(walk(7), walk(8));
    }

    #[test]
    fn first_number_of_seed_zero_is_the_published_one() {
        assert_eq!(Random::seeded(0).bits(), 0xe220_a839_7b1d_cdaf);
    }
}

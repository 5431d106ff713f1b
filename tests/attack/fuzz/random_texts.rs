//! Texts at random, made of good ones.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use harness::random::{Random, fresh_seed};

use crate::cost::{self, Cost};

/// What the texts of a run may add to the peak of this process.
const MOST: u64 = 200 << 20;

/// A run of texts: the good ones first, then changed ones until its time is over.
pub(super) struct Texts {
    what: &'static str,
    corpus: Arc<[Vec<u8>]>,
    random: Random,
    until: Instant,
    count: usize,
    idle: u64,
}

impl Texts {
    /// Begins a run with these good ones.
    pub(super) fn of(what: &'static str, corpus: Vec<Vec<u8>>) -> Self {
        assert!(corpus.len() > 1);
        let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let seed = number("FUZZ_SEED").unwrap_or_else(fresh_seed);
        let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(3));
        println!("{what}: FUZZ_SEED={seed} for {time:?}");
        cost::forget_peak(std::process::id());
        let idle = Cost::of(std::process::id()).resident;
        Self { what, corpus: corpus.into(), random: Random::seeded(seed), until: Instant::now() + time, count: 0, idle }
    }

    /// Returns the next text, or `None` when the time is over.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        // Those that are good come first.
        self.count += 1;
        if self.count <= self.corpus.len() {
            return Some(self.corpus[self.count - 1].clone());
        }
        (Instant::now() < self.until).then(|| self.changed())
    }

    fn changed(&mut self) -> Vec<u8> {
        let corpus = Arc::clone(&self.corpus);
        let mut text = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let (start, end) = self.range(text.len(), 64);
            match self.below(7) {
                0 => drop(text.drain(start..end)),
                1 => text[start..end].iter_mut().for_each(|byte| *byte ^= 1 << (start % 8)),
                2 => _ = text.splice(start..end, WORDS[self.below(WORDS.len())].bytes()),
                3 => {
                    let times = 1 << self.below(14);
                    let piece = text[start..end].repeat(times);
                    text.splice(start..start, piece);
                }
                4 => {
                    let times = 1 << self.below(14);
                    text.splice(start..start, WORDS[self.below(WORDS.len())].repeat(times).into_bytes());
                }
                5 => {
                    let other = &corpus[self.below(corpus.len())];
                    let (from, to) = self.range(other.len(), 2_000);
                    text.splice(start..end, other[from..to].iter().copied());
                }
                _ => text.truncate(end.max(1)),
            }
            if text.is_empty() {
                text.push(b'a');
            }
        }
        text.truncate(3 << 20);
        text
    }

    fn range(&mut self, length: usize, most: usize) -> (usize, usize) {
        let start = self.below(length);
        (start, (start + self.below(most)).min(length))
    }

    /// Returns a number below `most`.
    pub(super) fn below(&mut self, most: usize) -> usize {
        self.random.within(0..most as u64) as usize
    }

    /// Asserts that the run took little memory.
    pub(super) fn end(self) {
        let peak = Cost::of(std::process::id()).peak.saturating_sub(self.idle);
        println!("{}: {} texts, {} MB at the peak", self.what, self.count, peak >> 20);
        assert!(peak < MOST, "{} MB", peak >> 20);
    }
}

const WORDS: [&str; 28] = [
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[[]],",
    "{\"a\":0},",
    "\"",
    "\\u0000",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "? ",
    "- ",
    "a: ",
    "&a ",
    "*a ",
    "<<: *a\n",
    "!x ",
    "---\n",
    "\n",
    "|\n",
    "\t",
    "\u{feff}",
    "%",
    "é",
];

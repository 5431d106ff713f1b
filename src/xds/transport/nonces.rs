//! The nonces of debug answers, which are not watched.

use std::collections::VecDeque;

/// The nonces of the last debug answers.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    made: u64,
    recent: VecDeque<String>,
}

impl Nonces {
    /// How many are remembered: more than a client has unanswered.
    const RECENT: usize = 32;

    /// Makes the next one.
    pub(super) fn next(&mut self) -> String {
        self.made += 1;
        let nonce = format!("d{}", self.made);
        self.recent.push_back(nonce.clone());
        if self.recent.len() > Self::RECENT {
            self.recent.pop_front();
        }
        nonce
    }

    /// Returns whether a nonce is one of the last.
    pub(super) fn contains(&self, nonce: &str) -> bool {
        self.recent.iter().any(|recent| recent == nonce)
    }
}

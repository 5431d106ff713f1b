//! What others write, at random: what is broken somewhere never panics, never takes much memory, and obtains nothing.
//!
//! `FUZZ_SECONDS` says how long each takes, `FUZZ_SEED` goes through the same texts again. All are read in this process, so what
//! panics fails the test.

pub(crate) mod certificates;
mod credentials;
mod objects;
mod random_texts;
pub(crate) mod tokens;

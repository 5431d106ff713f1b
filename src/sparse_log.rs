//! Lines that callers can make us log: so many of them are written, and the others counted.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many lines are written in each period about what is wrong with callers: enough to see what it is.
pub(crate) const FEW: u64 = 10;
/// How many about what is usual, or about callers who have proven who they are.
pub(crate) const MANY: u64 = 200;
const PERIOD: Duration = Duration::from_secs(10);

/// Decides which lines of one kind are written.
#[derive(Debug)]
pub(crate) struct SparseLog {
    lines: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    written: u64,
    left_out: u64,
}

impl SparseLog {
    /// Begins with none written, of so many in each period.
    pub(crate) const fn new(lines: u64) -> Self {
        Self { lines, state: Mutex::new(State { began: None, written: 0, left_out: 0 }) }
    }

    /// Calls `write` if a line may be written now, with how many were left out before it.
    pub(crate) fn write(&self, write: impl FnOnce(u64)) {
        if let Some(left_out) = self.turn(Instant::now()) {
            write(left_out);
        }
    }

    fn turn(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.began.is_none_or(|began| now.duration_since(began) >= PERIOD) {
            (state.began, state.written) = (Some(now), 0);
        }
        if state.written == self.lines {
            state.left_out += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lines_are_written_and_the_others_counted() {
        let (log, now) = (SparseLog::new(FEW), Instant::now());
        let written: Vec<u64> = (0..1000).filter_map(|_| log.turn(now)).collect();
        assert_eq!(written, [0; FEW as usize]);
        assert_eq!(log.turn(now + PERIOD), Some(1000 - FEW));
        assert_eq!(log.turn(now + PERIOD), Some(0));
    }
}

//! The time of day, handed in where it is read (design rule 11).

use std::sync::Arc;

use jiff::Timestamp;

/// Tells the time of day.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Returns the clock of this machine.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

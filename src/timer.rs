//! A timer for the branches of a `select!`.

use tokio::time::{Instant, sleep_until};

/// Completes at `due`. Never completes if nothing is due.
pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

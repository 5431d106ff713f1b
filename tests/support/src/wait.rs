//! Waiting for a state of the world, never for a length of time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

const PAUSE: Duration = Duration::from_millis(5);

/// Asks `probe` until it answers `Ok`, for at most `deadline`; the error names `what` and the last reason.
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= end => return Err(anyhow!("{what}: not within {deadline:?}: {reason:#}")),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

//! Long work, on threads that serve nobody. While a serving thread computes, it may hold what wakes all others (tokio's driver of
//! I/O): nobody else would be read from or answered.

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::Status;

/// Where long work is done: so much at a time, in the order in which it came.
#[derive(Clone, Debug)]
pub(super) struct Offload(Arc<Semaphore>);

impl Offload {
    /// Does as many things at a time as there are processors.
    pub(super) fn by_processors() -> Self {
        Self::of(available_parallelism().map_or(2, NonZero::get))
    }

    /// Does so many things at a time.
    pub(super) fn of(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Returns what the work comes to. It is done to its end, even when nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let failed = |_| Status::internal("the work was given up");
        let place = Arc::clone(&self.0).acquire_owned().await.map_err(|_| Status::unavailable("the control plane is going away"))?;
        let done = spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn others_are_served_meanwhile_and_no_more_is_done_than_there_are_places() {
        let offload = Offload::of(1);
        let (go, wait) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let offload = offload.clone();
            async move { offload.run(move || wait.recv().is_ok()).await.unwrap() }
        });
        while offload.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn({
            let offload = offload.clone();
            async move { offload.run(|| 2).await.unwrap() }
        });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        go.send(()).unwrap();
        assert!(first.await.unwrap());
        assert_eq!(second.await.unwrap(), 2);
    }
}

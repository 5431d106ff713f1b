//! Answers reviews beside the threads that serve: so many megabytes at a time, and each until a deadline.
//!
//! What a review takes follows from what it brings, so turns are counted in megabytes. Small ones, as nearly all are, never wait for
//! large ones, and the webhooks of pods and of objects have turns of their own: a long check of an object keeps no pod waiting.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use crate::patience::Patience;

/// How many megabytes of large reviews are answered at a time. Each may take 20 megabytes of memory.
const MEGABYTES: u32 = 6;

/// The most bytes of a small review: those of pods have 10 kB.
const SMALL: usize = 256 << 10;

/// How many small reviews are answered at a time.
const SMALL_ONES: usize = 8;

/// How long a review may take: half of what the API server waits if nobody says otherwise.
const DEADLINE: Duration = Duration::from_secs(5);

/// The reviews of one webhook. Clones share the turns.
#[derive(Clone, Debug)]
pub(super) struct Reviews {
    turns: Arc<Semaphore>,
    turns_of_small_ones: Arc<Semaphore>,
    deadline: Duration,
    late: Counter,
}

/// Why a review has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It would have taken longer than the deadline.
    Late(Duration),
    /// The computation broke off; the log says why.
    Broken,
}

impl Reviews {
    /// Makes the turns of one webhook. `late` counts the reviews that came to the deadline.
    pub(super) fn new(late: Counter) -> Self {
        let turns = |number| Arc::new(Semaphore::new(number));
        Self { turns: turns(MEGABYTES as usize), turns_of_small_ones: turns(SMALL_ONES), deadline: DEADLINE, late }
    }

    /// Sets another deadline.
    #[cfg(test)]
    pub(super) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Computes the answer to a review of so many bytes. When the deadline comes, the computation is told to stop, and keeps its
    /// turn until it does.
    pub(super) async fn answer<T: Send + 'static>(
        &self,
        bytes: usize,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let patience = Patience::default();
        let computed = timeout(self.deadline, async {
            let turn = self.turn(bytes).await;
            let patience = patience.clone();
            spawn_blocking(move || {
                let answer = patience.compute(compute);
                drop(turn);
                answer
            })
            .await
        });
        match computed.await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Err(_)) => Err(Unanswered::Broken),
            Ok(Ok(None)) | Err(_) => {
                patience.end();
                self.late.inc();
                Err(Unanswered::Late(self.deadline))
            }
        }
    }
}

impl Reviews {
    // There always is a turn sometime, as nobody closes the semaphores.
    async fn turn(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let (turns, number) = if bytes <= SMALL { (&self.turns_of_small_ones, 1) } else { (&self.turns, megabytes(bytes)) };
        Arc::clone(turns).acquire_many_owned(number).await.ok()
    }
}

fn megabytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(MEGABYTES).clamp(1, MEGABYTES)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::patience;

    #[tokio::test]
    async fn what_takes_too_long_is_counted_and_stops() {
        let late = Counter::default();
        let reviews = Reviews::new(late.clone()).within(Duration::from_millis(50));
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&steps);
        let endless = move || {
            while !patience::is_over() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert_eq!(reviews.answer(usize::MAX, endless).await, Err(Unanswered::Late(Duration::from_millis(50))));
        assert!(late.get() == 1 && steps.load(Ordering::Relaxed) > 0);
        // All turns are there only when the computation has ended.
        let reviews = Reviews { deadline: Duration::from_secs(60), ..reviews };
        assert_eq!(reviews.answer(usize::MAX, || "next").await, Ok("next"));
        assert_eq!(late.get(), 1);
    }

    #[tokio::test]
    async fn one_at_a_time_is_answered_for_each_megabyte() {
        let reviews = Reviews::new(Counter::default());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answers = (0..8).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            reviews.answer(3 << 20, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        assert!(futures::future::join_all(answers).await.into_iter().all(|answer| answer == Ok(())));
        assert_eq!(most.load(Ordering::SeqCst), 2);
        assert_eq!((megabytes(0), megabytes(1 << 20), megabytes((1 << 20) + 1), megabytes(usize::MAX)), (1, 1, 2, MEGABYTES));
    }

    #[tokio::test]
    async fn a_small_one_never_waits_for_a_large_one() {
        let reviews = Reviews::new(Counter::default());
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let large = reviews.answer(6 << 20, move || ended.recv().is_err());
        let small = async {
            assert_eq!(reviews.answer(SMALL, || "small").await, Ok("small"));
            drop(end);
        };
        assert_eq!(tokio::join!(large, small).0, Ok(true));
    }

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        let reviews = Reviews::new(Counter::default());
        let broken = reviews.answer(1, || panic!("on purpose")).await;
        assert_eq!(broken, Err::<(), _>(Unanswered::Broken));
    }
}

//! How long the tasks that serve callers compute at a stretch.
//!
//! While one does, its thread serves nobody else, and may hold what wakes all other tasks. tokio measures polls behind its unstable
//! interface only, and by the clock on the wall; this is CPU time, which other work on the machine does not lengthen.

mod metrics;

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

pub(crate) use self::metrics::register;

/// From when on a poll counts as slow.
const SLOW: Duration = Duration::from_millis(50);

/// The polls of this process.
static OF_THIS_PROCESS: Polls = Polls::new();

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A connection of any port: its handshake, and what is read and written.
    Connection,
    /// A request of HTTP/2: who calls, what is answered at once, and the answer on its way out.
    Request,
    /// A stream of ADS: what its client asks for and is told.
    Stream,
}

/// Starts tasks that serve requests, with their polls measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestExecutor;

/// A future whose polls are measured.
#[derive(Debug)]
pub(crate) struct Measured<F> {
    inner: Pin<Box<F>>,
    task: Task,
    polls: &'static Polls,
}

/// What the polls of each sort of task took.
#[derive(Debug)]
struct Polls([Taken; Task::ALL.len()]);

#[derive(Debug)]
struct Taken {
    /// The longest, in nanoseconds.
    longest: AtomicU64,
    slow: AtomicU64,
}

/// Measures the polls of a task for the metrics of this process.
pub(crate) fn measured<F>(task: Task, inner: F) -> Measured<F> {
    OF_THIS_PROCESS.measured(task, inner)
}

// === impl Measured ===

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = cpu_time();
        let polled = self.inner.as_mut().poll(context);
        self.polls.count(self.task, cpu_time().saturating_sub(began));
        polled
    }
}

/// Returns the CPU time that this thread has used.
fn cpu_time() -> Duration {
    // Linux has this clock for every thread that runs.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

// === impl RequestExecutor ===

impl<F> hyper::rt::Executor<F> for RequestExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, request: F) {
        tokio::spawn(measured(Task::Request, request));
    }
}

// === impl Task ===

impl Task {
    const ALL: [Self; 3] = [Self::Connection, Self::Request, Self::Stream];

    /// Returns its name in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Stream => "stream",
        }
    }
}

// === impl Polls ===

impl Polls {
    const fn new() -> Self {
        Self([const { Taken { longest: AtomicU64::new(0), slow: AtomicU64::new(0) } }; Task::ALL.len()])
    }

    fn measured<F>(&'static self, task: Task, inner: F) -> Measured<F> {
        Measured { inner: Box::pin(inner), task, polls: self }
    }

    fn count(&self, task: Task, took: Duration) {
        let taken = &self.0[task as usize];
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Nearly no poll is the longest: the value is read by all threads, and seldom written.
        if nanoseconds > taken.longest.load(Ordering::Relaxed) {
            taken.longest.fetch_max(nanoseconds, Ordering::Relaxed);
        }
        if took > SLOW {
            taken.slow.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes until this thread has used that much CPU time.
    fn compute(time: Duration) {
        let end = cpu_time() + time;
        while cpu_time() < end {
            std::hint::spin_loop();
        }
    }

    fn of(polls: &Polls, task: Task) -> (Duration, u64) {
        let taken = &polls.0[task as usize];
        (Duration::from_nanos(taken.longest.load(Ordering::Relaxed)), taken.slow.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn the_longest_poll_and_the_slow_ones_are_counted_by_what_they_compute() {
        static POLLS: Polls = Polls::new();
        let work = async {
            for milliseconds in [1, 60, 2, 55] {
                compute(Duration::from_millis(milliseconds));
                tokio::task::yield_now().await;
            }
        };
        POLLS.measured(Task::Stream, work).await;
        let (longest, slow) = of(&POLLS, Task::Stream);
        assert!(longest >= Duration::from_millis(60) && slow == 2, "{longest:?} {slow}");
        // What waits, or keeps its thread without computing, is not counted.
        let waiting = async { std::thread::sleep(SLOW * 2) };
        POLLS.measured(Task::Request, waiting).await;
        assert_eq!(of(&POLLS, Task::Request).1, 0);
        assert_eq!(of(&POLLS, Task::Connection), (Duration::ZERO, 0));
    }
}

//! How much a stream does at a stretch: between two moments at which its thread may turn to others.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use prometheus_client::metrics::gauge::Gauge;

use crate::visits::Visits;

/// A future that notes the most names that one poll of it has looked at.
pub(super) struct Turns<F> {
    inner: Pin<Box<F>>,
    most: Gauge,
}

impl<F> Turns<F> {
    /// Watches a future.
    pub(super) fn new(inner: F, most: Gauge) -> Self {
        Self { inner: Box::pin(inner), most }
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = Visits::of_this_thread();
        let polled = self.inner.as_mut().poll(context);
        let names = i64::try_from((Visits::of_this_thread() - before).names).unwrap_or(i64::MAX);
        if names > self.most.get() {
            self.most.set(names);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::visits::{self, Visited};

    #[tokio::test]
    async fn the_longest_turn_counts() {
        let most = Gauge::default();
        let work = async {
            for names in [3, 7, 5] {
                visits::count(Visited::Name, names);
                tokio::task::yield_now().await;
            }
        };
        Turns::new(work, most.clone()).await;
        assert_eq!(most.get(), 7);
    }
}

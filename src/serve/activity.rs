//! What goes on in one connection: whether it ever asked something, since when it has been quiet, and since when it takes nothing of an
//! answer.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The requests of one connection. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Shared>);

/// A request that is being answered; dropping it ends it.
#[derive(Debug)]
pub(super) struct Open(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    open: usize,
    asked: bool,
    /// The answers of which more is there than was taken: since when, and their numbers.
    untaken: BTreeSet<(Instant, u64)>,
    last: u64,
    /// When the connection began, or the last request ended.
    quiet_since: Instant,
}

impl Activity {
    /// Begins with a connection that has asked nothing.
    pub(super) fn new() -> Self {
        let state = State { open: 0, asked: false, untaken: BTreeSet::new(), last: 0, quiet_since: Instant::now() };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Records that a request has come; it is open until the value, or the answer that it [covers](Open::cover), is dropped.
    pub(super) fn begin(&self) -> Open {
        let mut state = self.0.state.lock();
        state.open += 1;
        state.asked = true;
        Open(Arc::clone(&self.0))
    }

    /// Returns when the connection has asked nothing for `first` from its beginning, or nothing for `idle` since.
    pub(super) async fn quiet(&self, first: Duration, idle: Duration) {
        loop {
            let changed = self.0.changed.notified();
            let (open, asked, quiet_since) = self.0.state.lock().quiet();
            let end = quiet_since + if asked { idle } else { first };
            if open > 0 {
                changed.await;
            } else if Instant::now() >= end {
                return;
            } else {
                sleep_until(end).await;
            }
        }
    }

    /// Returns when the peer has taken nothing of an answer for that long, though there is something.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let since = self.0.state.lock().untaken.first().map(|(since, _)| *since);
            let end = since.unwrap_or_else(Instant::now) + limit;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}

impl State {
    fn quiet(&self) -> (usize, bool, Instant) {
        (self.open, self.asked, self.quiet_since)
    }
}

impl Open {
    /// Keeps the request open until this body of its answer is gone.
    pub(super) fn cover<B>(self, body: B) -> Covered<B> {
        Covered { body, untaken: None, open: self }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        state.quiet_since = Instant::now();
        drop(state);
        self.0.changed.notify_waiters();
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Covered<B> {
    body: B,
    /// Since when a piece is there that was given out, but nobody came for the next.
    untaken: Option<(Instant, u64)>,
    open: Open,
}

impl<B> Covered<B> {
    /// Records that somebody came for the next piece.
    fn taken(&mut self) {
        if let Some(entry) = self.untaken.take() {
            self.open.0.state.lock().untaken.remove(&entry);
        }
    }

    /// Records that a piece was given out.
    fn given(&mut self) {
        let mut state = self.open.0.state.lock();
        state.last += 1;
        let entry = (Instant::now(), state.last);
        state.untaken.insert(entry);
        self.untaken = Some(entry);
    }
}

impl<B> Drop for Covered<B> {
    fn drop(&mut self) {
        self.taken();
    }
}

impl<B: Body + Unpin> Body for Covered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.taken();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            self.given();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_connection_is_quiet_when_nothing_is_open() {
        let activity = Activity::new();
        activity.quiet(SOON, LATE).await;
        let open = activity.begin();
        let quiet = async { activity.quiet(SOON, SOON).await };
        tokio::pin!(quiet);
        assert!(timeout(SOON * 5, &mut quiet).await.is_err(), "a request is open");
        let body = open.cover(http_body_util::Empty::<bytes::Bytes>::new());
        assert!(timeout(SOON * 5, &mut quiet).await.is_err(), "its answer is being read");
        drop(body);
        quiet.await;
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_stalls_its_connection() {
        let activity = Activity::new();
        let mut body = activity.begin().cover(http_body_util::Full::new(bytes::Bytes::from_static(b"a")));
        assert!(timeout(SOON * 5, activity.stalled(SOON)).await.is_err(), "nobody asked for the answer yet");
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut body).poll_frame(&mut context).is_ready());
        activity.stalled(SOON).await;
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut context), Poll::Ready(None)));
        assert!(timeout(SOON * 5, activity.stalled(SOON)).await.is_err(), "it was taken to its end");

        let mut waiting =
            activity.begin().cover(http_body_util::StreamBody::new(futures::stream::pending::<Result<Frame<bytes::Bytes>, ()>>()));
        assert!(Pin::new(&mut waiting).poll_frame(&mut context).is_pending());
        assert!(timeout(SOON * 5, activity.stalled(SOON)).await.is_err(), "there is nothing to take");
    }
}

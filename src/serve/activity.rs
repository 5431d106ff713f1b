//! What goes on in one connection: whether it ever asked something, and since when it has been quiet.

use std::{
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

#[derive(Clone, Copy, Debug)]
struct State {
    open: usize,
    asked: bool,
    /// When the connection began, or the last request ended.
    quiet_since: Instant,
}

impl Activity {
    /// Begins with a connection that has asked nothing.
    pub(super) fn new() -> Self {
        let state = State { open: 0, asked: false, quiet_since: Instant::now() };
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
            let State { open, asked, quiet_since } = *self.0.state.lock();
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
}

impl Open {
    /// Keeps the request open until this body of its answer is gone.
    pub(super) fn cover<B>(self, body: B) -> Covered<B> {
        Covered { body, _open: self }
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
    _open: Open,
}

impl<B: Body + Unpin> Body for Covered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
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
}

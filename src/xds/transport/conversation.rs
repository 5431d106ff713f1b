//! A session and its row in the ledger. Both go to another thread together when there is much to do.

use std::time::Instant;

use tokio::time;

use crate::{
    clock::Clock,
    xds::{
        bounds::Excess,
        ledger::Entry,
        session::{Protocol, Response, Session},
        view::View,
    },
};

/// What is held for one proxy.
pub(super) struct Conversation<P> {
    session: Session<P>,
    entry: Entry,
    clock: Clock,
}

impl<P: Protocol> Conversation<P> {
    /// Joins the two.
    pub(super) fn new(session: Session<P>, entry: Entry, clock: Clock) -> Self {
        Self { session, entry, clock }
    }

    /// Returns when there may be more to say though nothing happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.session.deadline()
    }

    /// Returns how many names of one type a request may hold.
    pub(super) fn most_names(&self) -> usize {
        self.session.most_names()
    }

    /// Returns how many bytes are held for this client alone, at most.
    pub(super) fn held(&self) -> usize {
        self.session.held()
    }

    /// Returns how many names a request makes us look at, at most.
    pub(super) fn effort_of(&self, request: &P::Request) -> usize {
        self.session.effort_of(request)
    }

    /// Returns how many names have to be looked at to turn to a view, where it may be many.
    pub(super) fn effort_to_turn(&self, view: &View) -> usize {
        self.session.effort_to_turn(view)
    }

    /// Returns how many names have to be looked at to say something, at most.
    pub(super) fn effort_to_speak(&self) -> usize {
        self.session.effort_to_speak()
    }

    /// Takes a request.
    pub(super) fn take(&mut self, request: P::Request) -> Result<(), Excess> {
        let taken = self.session.on_request(request, now());
        self.record();
        taken
    }

    /// Turns to a newer view.
    pub(super) fn turn(&mut self, view: View) {
        self.session.on_view(view);
        self.record();
    }

    /// Returns the next response, if there is something to say. It is recorded before it is on its way, since its ACK could
    /// otherwise come first.
    pub(super) fn speak(&mut self) -> Option<Response> {
        let response = self.session.next(now());
        self.record();
        response
    }

    fn record(&mut self) {
        let events = self.session.take_events();
        if !events.is_empty() {
            let now = (self.clock)();
            events.iter().for_each(|event| self.entry.record(event, now));
        }
    }
}

// Tokio's clock, since tests can pause it.
fn now() -> Instant {
    time::Instant::now().into_std()
}

//! One proxy's conversation, as a state machine: requests and views in, responses and events out. It knows no socket and
//! no clock; time is handed in.
//!
//! [`Delta`] and [`Sotw`] are the two protocols. What they share is the state of one type (`channel`) and the order
//! between the types (`rollout`).

mod answers;
mod blame;
mod channel;
mod delta;
mod event;
mod flight;
mod names;
mod protocol;
mod response;
mod rollout;
mod sotw;
mod suspects;
mod table_trial;

use std::{marker::PhantomData, sync::Arc, time::Instant};

pub(crate) use self::protocol::{Protocol, Request};
use self::{answers::Answers, protocol::Told, rollout::Rollout};
pub use self::{
    delta::Delta,
    event::{Event, Refused},
    response::{Reason, Reasons, Response},
    rollout::Settings,
    sotw::Sotw,
    table_trial::JoinedTables,
};
use super::{resource_type::ResourceType, view::View};

/// A conversation in one of the two protocols.
#[derive(Debug)]
pub(crate) struct Session<P> {
    rollout: Rollout,
    answers: Answers,
    protocol: PhantomData<P>,
}

impl<P> Session<P> {
    /// Starts with a client that has said nothing yet and is to have `view`. All sessions of a service have the same `joined`.
    pub(crate) fn new(settings: Settings, view: View, joined: &Arc<JoinedTables>) -> Self {
        Self { rollout: Rollout::new(settings, view, joined), answers: Answers::default(), protocol: PhantomData }
    }

    /// Turns to a newer view.
    pub(crate) fn on_view(&mut self, view: View) {
        self.rollout.rebase(view);
    }

    /// Returns when [`next`](Self::next) may have more to say though nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rollout.deadline()
    }

    /// Returns what happened since this was last called, in order.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.rollout.take_events()
    }
}

impl<P: Protocol> Session<P> {
    /// Takes a request.
    pub(crate) fn on_request(&mut self, request: P::Request, now: Instant) {
        match ResourceType::from_type_url(request.type_url()).filter(|kind| kind.is_in_views()) {
            Some(kind) => P::receive(&mut self.rollout, kind, request, now),
            None => self.answers.receive::<P>(&request),
        }
    }

    /// Returns the next response, if there is something to say. Calling it means that the client can take it.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Response> {
        if let Some(answer) = self.answers.next() {
            return Some(answer);
        }
        let step = self.rollout.step(now)?;
        let kind = step.kind;
        let Told { response, nonce, reasons } = P::respond(&mut self.rollout, step, now);
        self.rollout.report(Event::Sent {
            kind,
            nonce,
            resources: response.resources.len(),
            removed: response.removed.len(),
            bytes: response.resources.iter().map(|resource| resource.body.len() as u64).sum(),
            reasons,
        });
        Some(response)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;

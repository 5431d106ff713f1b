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
use super::{
    bounds::{Bounds, Excess},
    resource_type::ResourceType,
    view::View,
};

/// How many resources a view has when it is not compared with another on a serving thread.
const LARGE_VIEW: usize = 20_000;

/// What an entry takes in the lists that are held for one client, in bytes: a name that shares its text, what the client has under it,
/// and its place in a tree.
const ENTRY: usize = 96;

/// What an entry takes besides whose name no view has: its allocation, and a resource that stands in.
const STRANGER: usize = 256;

/// How many copies there may be of the text of such a name: among those asked for, on its way, and within what stands in.
const COPIES: usize = 3;

/// A conversation in one of the two protocols.
#[derive(Debug)]
pub(crate) struct Session<P> {
    rollout: Rollout,
    answers: Answers,
    bounds: Bounds,
    /// The length of the longest name that the client has said.
    longest_name: usize,
    protocol: PhantomData<P>,
}

impl<P> Session<P> {
    /// Starts with a client that has said nothing yet and is to have `view`. All sessions of a service have the same `joined`.
    pub(crate) fn new(settings: Settings, bounds: Bounds, view: View, joined: &Arc<JoinedTables>) -> Self {
        let rollout = Rollout::new(settings, bounds.unknown_names, view, joined);
        Self { rollout, answers: Answers::default(), bounds, longest_name: 0, protocol: PhantomData }
    }

    /// Turns to a newer view.
    pub(crate) fn on_view(&mut self, view: View) {
        self.rollout.rebase(view);
    }

    /// Returns when [`next`](Self::next) may have more to say though nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rollout.deadline()
    }

    /// Returns how many names of one type a request may hold.
    pub(crate) fn most_names(&self) -> usize {
        ResourceType::ALL.into_iter().map(|kind| self.rollout.most_names(kind)).max().unwrap_or(0)
    }

    /// Returns how many bytes are held for this client alone, at most: its lists, and the texts that no view has.
    pub(crate) fn held(&self) -> usize {
        let strangers = self.rollout.strangers() + self.answers.effort();
        ENTRY * (self.rollout.entries() + self.answers.effort()) + (STRANGER + COPIES * self.longest_name) * strangers
    }

    /// Returns how many names have to be looked at to turn to a view, where it may be many. What views have in common is not
    /// looked at, and mostly that is nearly all.
    pub(crate) fn effort_to_turn(&self, view: &View) -> usize {
        let all: usize = ResourceType::ALL.into_iter().map(|kind| view.len(kind)).sum();
        if all > LARGE_VIEW { all } else { 0 }
    }

    /// Returns how many names have to be looked at to say something, at most.
    pub(crate) fn effort_to_speak(&self) -> usize {
        self.rollout.effort() + self.answers.effort()
    }

    /// Returns what happened since this was last called, in order.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.rollout.take_events()
    }
}

impl<P: Protocol> Session<P> {
    /// Takes a request.
    ///
    /// # Errors
    /// When it goes over a bound; the client is then not served any more.
    pub(crate) fn on_request(&mut self, request: P::Request, now: Instant) -> Result<(), Excess> {
        self.longest_name = self.longest_name.max(request.longest_name());
        match kind_of(&request) {
            Some(kind) => {
                let taken = P::receive(&mut self.rollout, kind, request, now);
                self.rollout.report_answer();
                taken
            }
            None => self.answers.receive::<P>(&request, self.bounds.unknown_names),
        }
    }

    /// Returns how many names a request makes us look at, at most.
    pub(crate) fn effort_of(&self, request: &P::Request) -> usize {
        request.size() + kind_of(request).map_or(0, |kind| self.rollout.effort_of_answer(kind, request.nonce()))
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

fn kind_of(request: &impl Request) -> Option<ResourceType> {
    ResourceType::from_type_url(request.type_url()).filter(|kind| kind.is_in_views())
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod every_field;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;

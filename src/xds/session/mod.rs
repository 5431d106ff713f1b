//! One proxy's conversation, as a state machine: requests and views in, responses out. It knows no socket and no
//! clock; time is handed in.
//!
//! [`delta`] and [`sotw`] are the two protocols. What they share is the state of one type ([`channel`]) and the order
//! between the types ([`super::rollout`]).

pub(crate) mod channel;
pub mod delta;
mod names;
pub mod sotw;
mod unserved;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use envoy_types::pb::envoy::config::{core::v3, endpoint::v3::ClusterLoadAssignment, route::v3::RouteConfiguration};
use envoy_types::pb::google::protobuf::BoolValue;
use smol_str::SmolStr;

pub use channel::Reason;
use unserved::Unserved;

use super::{
    encode,
    per_type::PerType,
    resource::Resource,
    resource_type::ResourceType,
    rollout::{Rollout, Step},
    view::View,
};
use crate::translate::input::Built;

/// A conversation in one of the two protocols: what they differ in is required, the rest is here.
pub(crate) trait Session: Send {
    /// What the client sends.
    type Request: prost::Message + Default + 'static;

    /// Takes a request.
    fn on_request(&mut self, request: Self::Request, now: Instant);

    /// Puts a step into the words of the protocol.
    fn response(&mut self, step: Step, now: Instant) -> Response;

    /// What the client has and is to have.
    fn rollout(&self) -> &Rollout;

    /// As [`rollout`](Self::rollout), to move it on.
    fn rollout_mut(&mut self) -> &mut Rollout;

    /// What is only answered.
    fn unserved(&mut self) -> &mut Unserved;

    /// The node in a request.
    fn node(request: &mut Self::Request) -> Option<v3::Node>;

    /// The type URL of a request.
    fn type_url(request: &Self::Request) -> &str;

    /// The names that a request asks for.
    fn names(request: &Self::Request) -> &[String];

    /// The nonce that a request answers.
    fn nonce(request: &Self::Request) -> &str;

    /// Turns to a newer view.
    fn on_view(&mut self, view: View) {
        self.rollout_mut().rebase(view);
    }

    /// The next response, if there is something to say. Calling it means that the client can take it.
    fn next(&mut self, now: Instant) -> Option<Response> {
        if let Some(response) = self.unserved().next() {
            return Some(response);
        }
        let step = self.rollout_mut().step(now)?;
        Some(self.response(step, now))
    }

    /// When [`next`](Self::next) may have more to say though nothing happened.
    fn deadline(&self) -> Option<Instant> {
        self.rollout().deadline()
    }

    /// What happened since this was last called.
    fn events(&mut self) -> Vec<Event> {
        self.rollout_mut().events()
    }

    /// Whether the client has answered for all that the view has for it. Removals may be outstanding.
    fn is_current(&self) -> bool {
        self.rollout().is_current()
    }

    /// Types of which the client refused something that the view still has.
    fn refused(&self) -> Vec<ResourceType> {
        self.rollout().refused()
    }

    /// How far the client is with each type.
    fn states(&self) -> PerType<TypeState> {
        self.rollout().states()
    }

    /// The view that the session works towards.
    fn view(&self) -> &View {
        self.rollout().view()
    }
}

/// A response, made of references to shared resources.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The served type; `None` for one that is only answered.
    pub kind: Option<ResourceType>,
    /// What the client called the type.
    pub type_url: SmolStr,
    /// Counts the responses of this stream.
    pub nonce: SmolStr,
    /// State of the world: hash over all names and contents. Delta: that of the view's generation, for reading only.
    pub version: SmolStr,
    /// What is sent.
    pub resources: Vec<Arc<Resource>>,
    /// One resource without content goes along: for a type that is not served, but without which a client waits.
    pub blank: bool,
    /// Delta: what is gone.
    pub removed: Vec<SmolStr>,
    /// How many of the resources are sent why.
    pub reasons: BTreeMap<Reason, u64>,
}

/// How far a client is with one type, in nonces of its stream (counted from 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeState {
    /// It asked for the type.
    pub subscribed: bool,
    /// The last response; 0: none.
    pub sent: u64,
    /// The last response that it took; 0: none.
    pub acked: u64,
}

/// What the operator should know.
#[derive(Clone, Debug)]
pub enum Event {
    /// The proxy refused a response.
    Rejected {
        /// Its type.
        kind: ResourceType,
        /// The gRPC code that the proxy gave.
        code: i32,
        /// What the proxy said.
        error: String,
        /// Contents that are not sent again unasked.
        refused: Vec<Arc<Resource>>,
        /// Contents among which the refused ones are; they are tried in halves.
        suspects: Vec<Arc<Resource>>,
    },
    /// The client answered a response that is neither awaited nor the newest.
    Expired {
        /// Its type.
        kind: ResourceType,
    },
    /// A deadline passed, and what waited for an ACK went without it.
    GateOpened {
        /// The type whose ACK was awaited.
        kind: ResourceType,
        /// The names that were not ACKed.
        awaited: Vec<SmolStr>,
    },
}

/// The answer for a route table that does not exist: Envoy waits for it before it opens the listener.
pub(crate) fn empty_route_configuration(name: &str) -> Arc<Resource> {
    let header =
        RouteConfiguration { name: name.into(), validate_clusters: Some(BoolValue { value: false }), ..RouteConfiguration::default() };
    Arc::new(encode::route_configuration(&header, []))
}

/// The state-of-the-world answer for endpoints that do not exist.
fn empty_load_assignment(name: &str) -> Arc<Resource> {
    let message = ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() };
    Arc::new(encode::load_assignment(Built::new(message, [])))
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;

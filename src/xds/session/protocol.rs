//! What the two protocols differ in.

use std::{fmt, time::Instant};

use envoy_types::pb::envoy::config::core::v3;
use smol_str::SmolStr;

use super::{
    response::{Reasons, Response},
    rollout::{Rollout, Step},
};
use crate::xds::{
    bounds::{Excess, Message},
    resource_type::ResourceType,
};

/// How a protocol reads requests and writes responses.
pub(crate) trait Protocol: fmt::Debug + Send + 'static {
    /// What the client sends.
    type Request: Request;

    /// The bounds of the requests.
    const MESSAGE: &'static Message;
    /// The field with the names that a client asks for.
    const NAMES: &'static str;

    /// Takes a request for a type that views have content of.
    ///
    /// # Errors
    /// When the stream would have more names than it may.
    fn receive(rollout: &mut Rollout, kind: ResourceType, request: Self::Request, now: Instant) -> Result<(), Excess>;

    /// Puts a step into the words of the protocol.
    fn respond(rollout: &mut Rollout, step: Step, now: Instant) -> Told;

    /// Returns whether a request for a type without content wants an answer; `changed` says whether it asks for other names than
    /// the request before, if there was one.
    fn wants_answer(request: &Self::Request, changed: Option<bool>) -> bool;

    /// Returns the names that are said to be gone in the answer to such a request.
    fn gone(request: &Self::Request) -> Vec<SmolStr>;
}

/// A response with what is not said in it.
#[derive(Debug)]
pub(crate) struct Told {
    /// The response.
    pub(crate) response: Response,
    /// Its nonce as a number.
    pub(crate) nonce: u64,
    /// How many of its resources are sent for which reason.
    pub(crate) reasons: Reasons,
}

/// What a client sends.
pub(crate) trait Request: prost::Message + Default + 'static {
    /// Takes the node out of the request.
    fn take_node(&mut self) -> Option<v3::Node>;

    /// Returns the type URL.
    fn type_url(&self) -> &str;

    /// Returns the names that it asks for.
    fn names(&self) -> &[String];

    /// Returns how many names it holds.
    fn size(&self) -> usize;

    /// Returns the length of the longest name in it, in bytes.
    fn longest_name(&self) -> usize;

    /// Returns the nonce of the response that it answers; empty when it answers none.
    fn nonce(&self) -> &str;
}

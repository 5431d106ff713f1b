//! What happens in a session, for whoever keeps the books.

use std::sync::Arc;

use smol_str::SmolStr;

use super::response::Reasons;
use crate::{
    peer_text::PeerText,
    xds::{resource::Resource, resource_type::ResourceType, view::View},
};

/// Something that happened between a client and its session.
#[derive(Clone, Debug)]
pub enum Event {
    /// The session turned to a newer view.
    Turned {
        /// What the client is to have from now on.
        view: View,
    },
    /// The client asked for a type, for the first time on this connection.
    Subscribed {
        /// The type.
        kind: ResourceType,
    },
    /// A response was made.
    Sent {
        /// Its type.
        kind: ResourceType,
        /// Its nonce, counted from 1.
        nonce: u64,
        /// How many resources are in it.
        resources: usize,
        /// How many names it takes away.
        removed: usize,
        /// How many bytes the resources have.
        bytes: u64,
        /// How many of the resources are sent for which reason.
        reasons: Reasons,
    },
    /// The client has answered for all that a view has of a type, apart from what it refuses and what is to be removed.
    /// The ACK that brings this about is reported after it.
    Completed {
        /// The type.
        kind: ResourceType,
        /// The view.
        view: View,
    },
    /// The client took a response, and so has answered all before it.
    Acked {
        /// Its type.
        kind: ResourceType,
        /// Its nonce.
        nonce: u64,
        /// What the responses contained.
        items: Vec<Arc<Resource>>,
    },
    /// The client refused a response.
    Rejected {
        /// Its type.
        kind: ResourceType,
        /// The gRPC code that the client gave.
        code: i32,
        /// What the client said.
        error: PeerText,
        /// Contents that are not sent again unasked.
        refused: Vec<Arc<Resource>>,
        /// Contents among which the refused ones are; they are tried in halves.
        suspects: Vec<Arc<Resource>>,
    },
    /// The client now refuses other contents of the view than before.
    Refusing {
        /// Their type.
        kind: ResourceType,
        /// All of them; none when the client refuses nothing any more.
        items: Arc<[Refused]>,
    },
    /// The client has answered for all that the view has, and nothing is on its way to it. Removals may be outstanding.
    Current {
        /// The view's generation.
        generation: u64,
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

/// A resource that a client is known to refuse.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The resource.
    pub resource: Arc<Resource>,
    /// What the client said.
    pub error: PeerText,
}

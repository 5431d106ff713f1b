//! What a session says.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::SmolStr;

use crate::xds::{resource::Resource, resource_type::ResourceType};

/// A response, made of references to shared resources.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The type; `None` for one that the server does not know.
    pub kind: Option<ResourceType>,
    /// What the client called the type.
    pub type_url: SmolStr,
    /// Counts the responses of this stream.
    pub nonce: SmolStr,
    /// State of the world: the hash over all names and contents. Delta: the view's generation, for reading only.
    pub version: SmolStr,
    /// What is sent.
    pub resources: Vec<Arc<Resource>>,
    /// What is gone. State of the world says so by leaving it out.
    pub removed: Vec<SmolStr>,
}

/// Why a resource is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Its content changed.
    Changed,
    /// The client asked for it.
    Requested,
    /// Its cluster is new or changed for the proxy, which waits for it even when it is unchanged.
    Warming,
    /// The proxy came back with other content, or without it.
    Reconnect,
    /// State of the world repeats all of a type whenever one changed.
    Repeated,
}

/// How many resources are sent for which reason.
pub type Reasons = BTreeMap<Reason, u64>;

impl Reason {
    /// Returns the word that metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Requested => "requested",
            Self::Warming => "warming",
            Self::Reconnect => "reconnect",
            Self::Repeated => "repeated",
        }
    }
}

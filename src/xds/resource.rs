//! A resource as it is stored and sent: encoded once, named, hashed, with its origin.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use smol_str::SmolStr;

use super::resource_type::ResourceType;
use crate::mesh::model::Origin;

/// The hash of a resource's canonical content: equal on every replica and after every restart (rule 2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub u64);

/// One encoded resource. Shared by all proxies that are sent it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Which type.
    pub kind: ResourceType,
    /// Its name.
    pub name: SmolStr,
    /// Hash over `body`.
    pub version: ContentHash,
    /// Canonical encoding of the message (the `value` of the Any).
    pub body: Bytes,
    /// Clusters that this resource sends traffic to: of a RouteConfiguration all that its routes name; of a
    /// Listener those that TCP chains and inline routes name. Sorted.
    pub clusters: Arc<[SmolStr]>,
    /// Route configurations that this Listener subscribes to. Sorted.
    pub routes: Arc<[SmolStr]>,
    /// For a Cluster: whether it takes its endpoints from EDS (under its own name).
    pub eds: bool,
    /// The objects that it came from, sorted.
    pub origins: Arc<[Origin]>,
}

// Equal content has equal hashes: the bytes need not be compared.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.version, self.kind, &self.name, &self.origins) == (other.version, other.kind, &other.name, &other.origins)
    }
}

// Sixteen hex digits: the form in which versions travel.
impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl ContentHash {
    /// Reads what [`Display`](fmt::Display) wrote; `None` for anything else (another control plane's version).
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

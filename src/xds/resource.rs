//! A resource as it is stored and sent: encoded once, named, hashed, with its origin.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use smol_str::SmolStr;

use crate::mesh::model::Origin;

/// The resource types that are served over ADS, in the order in which a push speaks of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoint,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
}

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

impl ResourceType {
    /// All of them, in push order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The full name of its message.
    pub fn message(self) -> &'static str {
        self.type_url().trim_start_matches("type.googleapis.com/")
    }

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type for a type URL; `None` for types that are not served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The short name that metrics and the command line use.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }

    /// Whether a subscription without names means all (CDS, LDS).
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
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

//! How one endpoint of several is chosen.

use std::time::Duration;

use smol_str::SmolStr;

/// How one endpoint of several is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancer {
    /// Of two endpoints drawn at random, the one with fewer requests under way.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// Not at all: connections go where the client sent them.
    Passthrough,
    /// Requests that have the same key go to the same endpoint.
    ConsistentHash(ConsistentHash),
}

/// A hash over something of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed; `None` hashes nothing.
    pub key: Option<HashKey>,
    /// How a hash leads to an endpoint.
    pub table: HashTable,
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value.
    HttpHeader(SmolStr),
    /// A cookie's value.
    HttpCookie {
        /// Its name.
        name: SmolStr,
        /// The path of a cookie that the proxy sets; empty: none.
        path: SmolStr,
        /// The lifetime of a cookie that the proxy sets; `None`: it sets none when the request has none.
        ttl: Option<Duration>,
        /// Attributes of a cookie that the proxy sets: name and value, in order.
        attributes: Vec<(SmolStr, SmolStr)>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter's value.
    HttpQueryParameter(SmolStr),
}

/// The data structure of a consistent hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// A ring of that many entries at least.
    Ring {
        /// Smallest number of entries.
        minimum_size: u64,
    },
    /// A Maglev table.
    Maglev {
        /// Number of entries, a prime; `None`: Envoy's default.
        size: Option<u64>,
    },
}

impl LoadBalancer {
    /// Returns the consistent hash, where there is one.
    pub fn consistent_hash(&self) -> Option<&ConsistentHash> {
        match self {
            Self::ConsistentHash(hash) => Some(hash),
            Self::LeastRequest | Self::RoundRobin | Self::Random | Self::Passthrough => None,
        }
    }

    /// Returns what of a request is hashed, where something is.
    pub fn hash_key(&self) -> Option<&HashKey> {
        self.consistent_hash()?.key.as_ref()
    }
}

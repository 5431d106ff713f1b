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
    /// None is: connections go where the client wanted them.
    Passthrough,
    /// Requests that have the same key go to the same endpoint.
    ConsistentHash(ConsistentHash),
}

/// A hash over something of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed; `None` hashes nothing.
    pub key: Option<HashKey>,
    /// From hash to endpoint.
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
        /// Path of a cookie that is made; empty: not set.
        path: SmolStr,
        /// Life of a cookie that is made; `None`: none is made when it is missing.
        ttl: Option<Duration>,
        /// Attributes of a cookie that is made: name and value, in order.
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
    /// The consistent hash, where there is one.
    pub fn consistent_hash(&self) -> Option<&ConsistentHash> {
        match self {
            Self::ConsistentHash(hash) => Some(hash),
            Self::LeastRequest | Self::RoundRobin | Self::Random | Self::Passthrough => None,
        }
    }

    /// What of a request is hashed, where something is.
    pub fn hash_key(&self) -> Option<&HashKey> {
        self.consistent_hash()?.key.as_ref()
    }
}

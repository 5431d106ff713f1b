//! Who is told of what the ledger records.

use std::fmt;

use super::known_version::KnownVersion;
use crate::{peer_text::PeerText, xds::session::Event};
use jiff::Timestamp;

/// Follows what happens with proxies. Called in the order of events of one connection; connections run beside each other.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Observes that a proxy has connected.
    fn connected(&self, _connection: &ProxyConnection, _now: Timestamp) {}

    /// Observes an event in a proxy's session.
    fn recorded(&self, connection: &ProxyConnection, event: &Event, now: Timestamp);

    /// Observes that a proxy's stream has ended.
    fn disconnected(&self, _connection: &ProxyConnection, _now: Timestamp) {}
}

/// One connection of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConnection {
    /// Counts connections since the start.
    pub number: u64,
    /// The proxy: `pod.namespace`.
    pub proxy: PeerText,
    /// The version that it says it has.
    pub version: KnownVersion,
    /// Whether the caller has proven who it is. What others refuse is not blamed on objects, and nothing waits for them.
    pub proven: bool,
}

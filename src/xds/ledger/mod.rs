//! What each proxy was sent, took and refused, told in the user's objects.
//!
//! Sessions push [`Event`]s; the ledger folds them into one row for each connection and hands them on to its observers.
//! A row refers to views, which proxies share, and lists only what its proxy has otherwise: what is known of an object is
//! found by joining the two ([`Ledger::progress`]), so that a proxy costs the same however many objects there are.

mod counters;
mod known_version;
mod log;
mod observer;
mod progress;
mod refused_objects;
mod row;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::DashMap;
use jiff::Timestamp;
use smol_str::{SmolStr, format_smolstr};

use self::{counters::Counters, known_version::KnownVersion, log::Log, row::Row};
pub use self::{
    observer::{Observer, ProxyConnection},
    progress::Progress,
    refused_objects::{Refusal, RefusedObjects},
    row::{Acknowledged, ProxyStatus, Rejection, TypeState},
};
use super::{metrics::DeliveryMetrics, node::Proven, resource_type::ResourceType, session::Event};
use crate::{
    clock::Clock,
    mesh::model::{Caller, ObjectKey},
    peer_text::PeerText,
};

/// All connected proxies.
#[derive(Debug, Default)]
pub struct Ledger {
    metrics: DeliveryMetrics,
    observers: Vec<Arc<dyn Observer>>,
    refused_objects: Arc<RefusedObjects>,
    last: AtomicU64,
    rows: DashMap<u64, Row>,
}

/// One proxy's row in the ledger; dropping it strikes it out.
pub struct Entry {
    ledger: Arc<Ledger>,
    connection: ProxyConnection,
    clock: Clock,
}

impl Ledger {
    /// Makes an empty ledger that counts in `metrics` and writes to the log.
    pub fn new(metrics: DeliveryMetrics) -> Self {
        let refused_objects = Arc::new(RefusedObjects::new(metrics.refused_objects.clone()));
        let counters = Arc::new(Counters::new(metrics.clone()));
        let observers: Vec<Arc<dyn Observer>> = vec![counters, Arc::<RefusedObjects>::clone(&refused_objects), Arc::new(Log)];
        Self { metrics, observers, refused_objects, ..Self::default() }
    }

    /// Adds an observer, to which everything is handed on.
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Returns the counters of delivery.
    pub fn metrics(&self) -> &DeliveryMetrics {
        &self.metrics
    }

    /// Returns the objects that connected proxies refuse.
    pub fn refused_objects(&self) -> &RefusedObjects {
        &self.refused_objects
    }

    /// Returns how far the connected proxies are, in order of connection.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        let mut all: Vec<_> = self.rows.iter().map(|row| (*row.key(), row.status.clone())).collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, status)| status).collect()
    }

    /// Returns how far the connected proxies are with what is made of an object.
    pub fn progress(&self, object: &ObjectKey) -> Progress {
        let mut join = progress::Join::new(object);
        for row in &self.rows {
            join.add(&row);
        }
        join.finish()
    }

    /// Returns by connection what proxies said of a resource; those that said nothing are left out.
    pub fn acknowledged(&self, kind: ResourceType, name: &str) -> BTreeMap<SmolStr, Acknowledged> {
        let said = |row: &Row| Some((row.status.connection.clone(), row.acknowledged(kind, name)?));
        self.rows.iter().filter_map(|row| said(&row)).collect()
    }

    /// Opens a row for a proxy that calls from `address`. `clock` tells when the connection ends.
    pub fn enter(self: &Arc<Self>, proven: &Proven, address: Option<SocketAddr>, clock: &Clock) -> Entry {
        let (now, node) = (clock(), proven.node());
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let (proxy, is_proven) = (PeerText::new(&node.proxy.id), *proven.caller() != Caller::Anonymous);
        let identity = match proven.caller() {
            Caller::Workload(identity) | Caller::Remote { identity, .. } => Some(Arc::new(identity.clone())),
            Caller::Anonymous => None,
        };
        let status = ProxyStatus::new(format_smolstr!("{proxy}-{number}"), node, address, now);
        let status = ProxyStatus { proven: is_proven, identity, ..status };
        self.rows.insert(number, Row::new(status));
        let connection = ProxyConnection { number, proxy, version: KnownVersion::of(&node.istio_version), proven: is_proven };
        self.observers.iter().for_each(|observer| observer.connected(&connection, now));
        Entry { ledger: Arc::clone(self), connection, clock: Arc::clone(clock) }
    }

    fn record(&self, connection: &ProxyConnection, event: &Event, now: Timestamp) {
        if let Some(mut row) = self.rows.get_mut(&connection.number) {
            row.record(event, now);
        }
        self.observers.iter().for_each(|observer| observer.recorded(connection, event, now));
    }

    fn leave(&self, connection: &ProxyConnection, now: Timestamp) {
        self.rows.remove(&connection.number);
        self.observers.iter().for_each(|observer| observer.disconnected(connection, now));
    }
}

impl Entry {
    /// Records what happened in the proxy's session, at `now`.
    pub fn record(&self, event: &Event, now: Timestamp) {
        self.ledger.record(&self.connection, event, now);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.leave(&self.connection, (self.clock)());
    }
}

#[cfg(test)]
mod tests;

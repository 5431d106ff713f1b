//! What is counted of deliveries.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::observer::{Observer, ProxyConnection};
use crate::xds::{metrics::DeliveryMetrics, resource_type::ResourceType, session::Event};

/// Counts what happens.
#[derive(Debug)]
pub(super) struct Counters {
    metrics: DeliveryMetrics,
    /// The types and gRPC codes of refusals that are shown while the proxy is connected.
    refusals: Mutex<BTreeMap<u64, BTreeSet<(ResourceType, String)>>>,
}

impl Counters {
    /// Counts in `metrics`.
    pub(super) fn new(metrics: DeliveryMetrics) -> Self {
        Self { metrics, refusals: Mutex::default() }
    }

    fn count_rejection(&self, connection: &ProxyConnection, kind: ResourceType, code: i32) {
        if !connection.proven {
            self.metrics.unproven_rejects.get_or_create(&[("type", kind.as_str())]).inc();
            return;
        }
        self.metrics.rejects.get_or_create(&[("type", kind.as_str())]).inc();
        let code = format!("{:?}", tonic::Code::from_i32(code));
        self.metrics.rejects_by_proxy[kind].get_or_create(&labels(connection, &code)).inc();
        self.refusals.lock().entry(connection.number).or_default().insert((kind, code));
    }
}

impl Observer for Counters {
    fn connected(&self, connection: &ProxyConnection, _: Timestamp) {
        self.metrics.connected.get_or_create(&[("version", connection.version.as_str())]).inc();
    }

    fn recorded(&self, connection: &ProxyConnection, event: &Event, _: Timestamp) {
        let metrics = &self.metrics;
        match event {
            Event::Sent { kind, bytes, reasons, .. } => {
                let label = [("type", kind.as_str())];
                metrics.pushes.get_or_create(&label).inc();
                metrics.bytes.get_or_create(&label).inc_by(*bytes);
                metrics.config_size.get_or_create(&label).observe(*bytes as f64);
                for (reason, count) in reasons {
                    metrics.resources.get_or_create(&[("type", kind.as_str()), ("reason", reason.as_str())]).inc_by(*count);
                }
            }
            Event::Rejected { kind, code, .. } => self.count_rejection(connection, *kind, *code),
            Event::Expired { kind } => metrics.expired_nonces.get_or_create(&[("type", kind.as_str())]).inc(),
            Event::GateOpened { kind, .. } => drop(metrics.gates_opened.get_or_create(&[("type", kind.as_str())]).inc()),
            _ => {}
        }
    }

    fn disconnected(&self, connection: &ProxyConnection, _: Timestamp) {
        self.metrics.connected.get_or_create(&[("version", connection.version.as_str())]).dec();
        // Otherwise every pod that ever was would leave a series behind.
        for (kind, code) in self.refusals.lock().remove(&connection.number).unwrap_or_default() {
            self.metrics.rejects_by_proxy[kind].remove(&labels(connection, &code));
        }
    }
}

fn labels(connection: &ProxyConnection, code: &str) -> [(&'static str, String); 2] {
    [("node", connection.proxy.to_string()), ("err", code.to_owned())]
}

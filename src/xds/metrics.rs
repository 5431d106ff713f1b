//! The metrics of delivery: istiod's under istiod's names (contract §10.2), and our own.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::per_type::PerType;
use crate::metrics::{ExactCounter, MetricLabels};

/// A distribution by type.
pub type ByType = Family<MetricLabels<1, &'static str>, Histogram, fn() -> Histogram>;

/// Counters of delivery. Cloning shares them.
#[derive(Clone, Debug)]
pub struct DeliveryMetrics {
    /// Proxies with an open stream, by the version that they say they have.
    pub connected: Family<MetricLabels<1, &'static str>, Gauge>,
    /// Responses, by type.
    pub pushes: Family<MetricLabels<1, &'static str>, ExactCounter>,
    /// Seconds that it took to make a response, by type.
    pub push_time: ByType,
    /// Seconds until the connection had taken a response.
    pub send_time: Histogram,
    /// Seconds from a new view until the proxy's stream turned to it.
    pub queue_time: Histogram,
    /// Bytes of the resources of a response, by type.
    pub config_size: ByType,
    /// Bytes of the largest request so far.
    pub largest_request: Gauge,
    /// Requests that held too much, by what they held too much of.
    pub refused_requests: Family<MetricLabels<1, &'static str>, Counter>,
    /// The most names that one turn of a stream has looked at so far.
    pub largest_turn: Gauge,
    /// Responses that callers refused who have not proven who they are, by type. The other counts of refusals do not have them.
    pub unproven_rejects: Family<MetricLabels<1, &'static str>, ExactCounter>,
    /// Responses refused, by type.
    pub rejects: Family<MetricLabels<1, &'static str>, ExactCounter>,
    /// Responses refused by the proxies that are connected, by type, proxy and gRPC code.
    pub rejects_by_proxy: PerType<Family<MetricLabels<2>, Gauge>>,
    /// Answers to responses that were neither awaited nor the newest, by type.
    pub expired_nonces: Family<MetricLabels<1, &'static str>, ExactCounter>,
    /// Streams that ended by a fault of the control plane.
    pub internal_errors: ExactCounter,
    /// Bytes of resources sent, by type.
    pub bytes: Family<MetricLabels<1, &'static str>, Counter>,
    /// Resources sent, by type and reason.
    pub resources: Family<MetricLabels<2, &'static str>, Counter>,
    /// Refusals of what was made from an object, by object. A series lasts for as long as a proxy refuses it.
    pub refused_objects: Family<MetricLabels<1>, Counter>,
    /// Gates that a deadline opened, by the type whose ACK was awaited.
    pub gates_opened: Family<MetricLabels<1, &'static str>, Counter>,
}

impl Default for DeliveryMetrics {
    fn default() -> Self {
        Self {
            connected: Family::default(),
            pushes: Family::default(),
            push_time: Family::new_with_constructor(push_seconds),
            send_time: push_seconds(),
            queue_time: Histogram::new([0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0]),
            config_size: Family::new_with_constructor(sizes),
            largest_request: Gauge::default(),
            refused_requests: Family::default(),
            largest_turn: Gauge::default(),
            unproven_rejects: Family::default(),
            rejects: Family::default(),
            rejects_by_proxy: Default::default(),
            expired_nonces: Family::default(),
            internal_errors: ExactCounter::default(),
            bytes: Family::default(),
            resources: Family::default(),
            refused_objects: Family::default(),
            gates_opened: Family::default(),
        }
    }
}

impl DeliveryMetrics {
    /// Registers all of them under the names that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("pilot_xds", "Proxies with an open stream, by version", self.connected.clone());
        registry.register("pilot_xds_pushes", "Responses sent, by type", self.pushes.clone());
        registry.register("pilot_xds_push_time", "Seconds that making a response took, by type", self.push_time.clone());
        registry.register("pilot_xds_send_time", "Seconds until the connection had taken a response", self.send_time.clone());
        registry.register("pilot_proxy_queue_time", "Seconds from a new view until the stream turned to it", self.queue_time.clone());
        registry.register("pilot_xds_config_size_bytes", "Bytes of the resources of a response, by type", self.config_size.clone());
        registry.register("pilot_xds_recv_max", "The largest request so far, bytes", self.largest_request.clone());
        registry.register("pilot_total_xds_rejects", "Responses that proxies refused, by type", self.rejects.clone());
        let help = "Responses that callers refused who have not proven who they are, by type";
        registry.register("istiod_lite_xds_unproven_rejects", help, self.unproven_rejects.clone());
        for (name, family) in self.rejects_by_proxy.iter().filter_map(|(kind, family)| Some((kind.rejects_metric()?, family))) {
            registry.register(name, "Responses that the connected proxies refused, by proxy and gRPC code", family.clone());
        }
        registry.register("pilot_xds_expired_nonce", "Answers to responses that were not awaited, by type", self.expired_nonces.clone());
        registry.register("pilot_total_xds_internal_errors", "Streams that ended in an error", self.internal_errors.clone());
        registry.register("istiod_lite_xds_refused_requests", "Requests that held too much, by reason", self.refused_requests.clone());
        registry.register("istiod_lite_xds_largest_turn", "The most names looked at in one turn of a stream", self.largest_turn.clone());
        registry.register("istiod_lite_xds_bytes", "Bytes of resources sent, by type", self.bytes.clone());
        registry.register("istiod_lite_xds_resources", "Resources sent, by type and reason", self.resources.clone());
        registry.register("istiod_lite_xds_refused_objects", "Refusals, by the object refused", self.refused_objects.clone());
        registry.register("istiod_lite_xds_gates_opened", "Gates that a deadline opened, by type", self.gates_opened.clone());
    }
}

fn push_seconds() -> Histogram {
    Histogram::new([0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0])
}

fn sizes() -> Histogram {
    Histogram::new([1.0, 1e4, 1e6, 4e6, 1e7, 4e7])
}

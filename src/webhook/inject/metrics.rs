//! Metrics of injections, under istiod's names (contract §10.2).

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram},
    registry::Registry,
};

/// The counters of the injector. Clones share them.
#[derive(Clone, Debug)]
pub struct InjectionMetrics {
    requests: Counter,
    success: Counter,
    failure: Counter,
    skip: Counter,
    time: Histogram,
    late: Counter,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod was injected.
    Injected,
    /// The pod was left as it is.
    Skipped,
    /// The pod was refused, or the request could not be read.
    Failed,
}

// === impl InjectionMetrics ===

impl Default for InjectionMetrics {
    fn default() -> Self {
        Self {
            requests: Counter::default(),
            success: Counter::default(),
            failure: Counter::default(),
            skip: Counter::default(),
            time: Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0]),
            late: Counter::default(),
        }
    }
}

impl InjectionMetrics {
    /// Registers all of them; the registry adds `_total` to counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("sidecar_injection_requests", "Requests to inject a proxy", self.requests.clone());
        registry.register("sidecar_injection_success", "Requests that were answered with a proxy", self.success.clone());
        registry.register("sidecar_injection_failure", "Requests that were refused", self.failure.clone());
        registry.register("sidecar_injection_skip", "Requests for pods that get no proxy", self.skip.clone());
        registry.register("sidecar_injection_time_seconds", "Time from request to answer", self.time.clone());
        registry.register("istiod_lite_injections_late", "Reviews of pods that were refused at their deadline", self.late.clone());
    }

    /// Returns the counter of the reviews that were refused at their deadline.
    pub(super) fn late(&self) -> Counter {
        self.late.clone()
    }

    pub(super) fn count(&self, outcome: Outcome, took: Duration) {
        self.requests.inc();
        self.time.observe(took.as_secs_f64());
        match outcome {
            Outcome::Injected => self.success.inc(),
            Outcome::Skipped => self.skip.inc(),
            Outcome::Failed => self.failure.inc(),
        };
    }
}

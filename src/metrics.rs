//! Counters under exactly the names that istiod's dashboards query (contract §10).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric},
    registry::{Metric, Registry},
};

/// The labels of a metric: names, each with its value.
pub(crate) type MetricLabels<const N: usize, V = String> = [(&'static str, V); N];

/// Puts metrics into a registry and hands them back to count with: registry and owner share the value.
pub(crate) struct Registration<'r>(pub(crate) &'r mut Registry);

impl Registration<'_> {
    /// Registers any metric.
    pub(crate) fn metric<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    /// Registers a counter under exactly this name.
    pub(crate) fn counter(&mut self, name: &str, help: &str) -> ExactCounter {
        self.metric(name, help, ExactCounter::default())
    }
}

/// A counter whose name is not given the suffix `_total`, which the encoder adds to every other counter.
///
/// OpenMetrics forbids that, the text format of Prometheus does not: an endpoint that has one serves the latter.
#[derive(Clone, Debug, Default)]
pub struct ExactCounter(Arc<AtomicU64>);

impl ExactCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl TypedMetric for ExactCounter {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for ExactCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        // What is encoded as a gauge keeps its name.
        encoder.encode_gauge(&i64::try_from(self.get()).unwrap_or(i64::MAX))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_name_stands_as_it_was_given() {
        let mut registry = Registry::default();
        let counter = ExactCounter::default();
        registry.register("pilot_xds_pushes", "Pushes", counter.clone());
        counter.add(3);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("# TYPE pilot_xds_pushes counter\npilot_xds_pushes 3\n"), "{text}");
    }
}

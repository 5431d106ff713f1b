//! Metrics of the API server as a source: what goes wrong, and which kinds are served.

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use smol_str::SmolStr;

use super::request::RequestError;
use crate::metrics::{ExactCounter, MetricLabels};

/// Counters of the API server as a source. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceMetrics {
    faults: Family<MetricLabels<2>, ExactCounter>,
    served: Family<MetricLabels<2>, Gauge>,
    refused: Family<MetricLabels<1>, Gauge>,
    clusters: Family<MetricLabels<1>, Gauge>,
}

impl SourceMetrics {
    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let faults = "Times that a collection could not be followed on, by what was wrong";
        registry.register("istiod_lite_source_faults", faults, self.faults.clone());
        registry.register("istiod_lite_source_served", "1 if the API server serves the kind, in this version", self.served.clone());
        let refused = "Objects that are refused: their last good content is used, or none";
        registry.register("istiod_lite_source_refused_objects", refused, self.refused.clone());
        registry.register("istiod_managed_clusters", "Clusters that are read, by their type", self.clusters.clone());
    }

    /// Records that one cluster is read, the local one.
    pub(super) fn set_clusters(&self) {
        for (kind, count) in [("local", 1), ("remote", 0)] {
            self.clusters.get_or_create(&[("cluster_type", kind.to_owned())]).set(count);
        }
    }

    /// Counts an error that kept a collection from being listed or watched.
    pub(super) fn count_fault(&self, source: &SmolStr, error: &RequestError) {
        self.faults.get_or_create(&[("source", source.to_string()), ("reason", error.as_str().to_owned())]).inc();
    }

    /// Records in which version a kind is served: empty if it is not served, `None` if that is unknown.
    pub(super) fn set_served(&self, kind: &str, before: Option<&'static str>, now: Option<&'static str>) {
        if let Some(version) = before {
            self.served.remove(&[("kind", kind.to_owned()), ("version", version.to_owned())]);
        }
        if let Some(version) = now {
            let served = i64::from(!version.is_empty());
            self.served.get_or_create(&[("kind", kind.to_owned()), ("version", version.to_owned())]).set(served);
        }
    }

    /// Records how many objects of a collection are refused.
    pub(super) fn set_refused(&self, source: &SmolStr, objects: usize) {
        let objects = i64::try_from(objects).unwrap_or(i64::MAX);
        self.refused.get_or_create(&[("source", source.to_string())]).set(objects);
    }
}

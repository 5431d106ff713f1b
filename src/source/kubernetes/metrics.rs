//! What goes wrong at the API server, and which kinds it serves, as counted.

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use smol_str::SmolStr;

use super::{ask::Trouble, served::Served};
use crate::metrics::ExactCounter;

type Labels<const N: usize> = [(&'static str, String); N];

/// Counters of the API server as the source. Cheap to clone: all clones count together.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics {
    faults: Family<Labels<2>, ExactCounter>,
    served: Family<Labels<2>, Gauge>,
    refused: Family<Labels<1>, Gauge>,
    clusters: Family<Labels<1>, Gauge>,
}

impl SourceMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let faults = "Times that a collection could not be followed on, by what was wrong";
        registry.register("istiod_lite_source_faults", faults, self.faults.clone());
        registry.register("istiod_lite_source_served", "1 if the API server serves the kind, in this version", self.served.clone());
        let refused = "Objects that are refused: their last good content is used, or none";
        registry.register("istiod_lite_source_refused_objects", refused, self.refused.clone());
        registry.register("istiod_managed_clusters", "Clusters that are read, by their type", self.clusters.clone());
    }

    /// The API server is read: one cluster, and no remote ones.
    pub(super) fn set_clusters(&self) {
        for (kind, count) in [("local", 1), ("remote", 0)] {
            self.clusters.get_or_create(&[("cluster_type", kind.to_owned())]).set(count);
        }
    }

    /// A collection cannot be followed on.
    pub(super) fn count_fault(&self, source: &SmolStr, trouble: &Trouble) {
        self.faults.get_or_create(&[("source", source.to_string()), ("reason", trouble.word().to_owned())]).inc();
    }

    /// How a kind is served from now on.
    pub(super) fn set_served(&self, kind: &'static str, before: Served, now: Served) {
        if let Some(version) = version(before) {
            self.served.remove(&[("kind", kind.to_owned()), ("version", version.to_owned())]);
        }
        if let Some(version) = version(now) {
            let served = i64::from(now != Served::Nowhere);
            self.served.get_or_create(&[("kind", kind.to_owned()), ("version", version.to_owned())]).set(served);
        }
    }

    /// So many objects of a collection are refused now.
    pub(super) fn set_refused(&self, source: &SmolStr, objects: usize) {
        let objects = i64::try_from(objects).unwrap_or(i64::MAX);
        self.refused.get_or_create(&[("source", source.to_string())]).set(objects);
    }
}

/// The label of a version; `None`: nothing is known that could be shown.
fn version(served: Served) -> Option<&'static str> {
    match served {
        Served::Unknown => None,
        Served::Nowhere => Some(""),
        Served::As(version) => Some(version),
    }
}

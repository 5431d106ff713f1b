//! What the pipeline counts, under istiod's names where istiod has one (contract §10.2).

use std::time::Duration;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use smol_str::SmolStr;

use crate::{
    api::{Kind, ObjectKey},
    metrics::ExactCounter,
    source::Change,
    xds::classes::{Prepared, Translations},
};

type Labels<const N: usize> = [(&'static str, String); N];

/// Counters of the pipeline.
#[derive(Debug)]
pub struct PipelineMetrics {
    events: Family<Labels<2>, ExactCounter>,
    registry_events: Family<Labels<2>, ExactCounter>,
    objects: ExactCounter,
    recomputed: ExactCounter,
    batches: ExactCounter,
    changed: Family<Labels<1>, ExactCounter>,
    proxies_pushed: ExactCounter,
    batch_seconds: Histogram,
    lost: Family<Labels<1>, Gauge>,
}

impl PipelineMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry, translations: Translations) -> Self {
        let metrics = Self {
            events: Family::default(),
            registry_events: Family::default(),
            objects: ExactCounter::default(),
            recomputed: ExactCounter::default(),
            batches: ExactCounter::default(),
            changed: Family::default(),
            proxies_pushed: ExactCounter::default(),
            batch_seconds: Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
            lost: Family::default(),
        };
        registry.register("pilot_k8s_cfg_events", "Objects that a source said changed, by kind and event", metrics.events.clone());
        registry.register(
            "pilot_k8s_reg_events",
            "Services and what they consist of that a source said changed",
            metrics.registry_events.clone(),
        );
        registry.register("istiod_lite_objects_applied", "Objects applied to the engine", metrics.objects.clone());
        registry.register("istiod_lite_values_recomputed", "Derived values that the engine computed again", metrics.recomputed.clone());
        registry.register("istiod_lite_batches", "Batches of changes that became worlds", metrics.batches.clone());
        registry.register("istiod_lite_translated", "Translations done, by what was translated", translations);
        registry.register("istiod_lite_resources_changed", "Shared resources that got new content, by type", metrics.changed.clone());
        registry.register("istiod_lite_proxies_concerned", "Proxies whose view a batch changed, summed", metrics.proxies_pushed.clone());
        registry.register("istiod_lite_batch_seconds", "From a batch to published views", metrics.batch_seconds.clone());
        registry.register("istiod_lite_source_lost", "1 while a source is gone and its last word is kept", metrics.lost.clone());
        metrics
    }

    /// Counts what a source said; `known` says whether an object stood before.
    pub(super) fn count_events(&self, changes: &[Change], known: impl Fn(&ObjectKey) -> bool) {
        for change in changes {
            let (kind, event) = match change {
                Change::Applied(object) => (object.key.kind, if known(&object.key) { "update" } else { "add" }),
                Change::Deleted(key) => (key.kind, "delete"),
            };
            let (events, kind) = match registry_type(kind) {
                Some(name) => (&self.registry_events, name),
                None => (&self.events, kind.as_str()),
            };
            events.get_or_create(&[("type", kind.into()), ("event", event.into())]).inc();
        }
    }

    pub(super) fn count_batch(&self, objects: usize, recomputed: usize, prepared: &Prepared, took: Duration) {
        self.batches.inc();
        self.objects.add(objects as u64);
        self.recomputed.add(recomputed as u64);
        for (kind, count) in prepared.changed() {
            self.changed.get_or_create(&[("type", kind.short().into())]).add(count);
        }
        self.proxies_pushed.add(prepared.proxies().len() as u64);
        self.batch_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn set_lost(&self, source: &SmolStr, lost: bool) {
        self.lost.get_or_create(&[("source", source.to_string())]).set(i64::from(lost));
    }
}

/// How istiod calls the kinds that its service registry reads.
fn registry_type(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Service => Some("Services"),
        Kind::EndpointSlice => Some("EndpointSlice"),
        Kind::Pod => Some("Pods"),
        Kind::Node => Some("Nodes"),
        _ => None,
    }
}

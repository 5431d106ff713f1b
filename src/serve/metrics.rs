//! The counters of the pipeline, under istiod's names where istiod has one (contract §10.2).

use std::time::Duration;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use smol_str::SmolStr;

use crate::{
    api::{Kind, ObjectKey},
    metrics::{ExactCounter, MetricLabels, Registration},
    source::Change,
    visits::Visits,
    xds::classes::{Prepared, Translations},
};

/// Counters of the pipeline. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct PipelineMetrics {
    registry_events: Family<MetricLabels<2>, ExactCounter>,
    config_events: Family<MetricLabels<2>, ExactCounter>,
    inbound: Family<MetricLabels<1>, ExactCounter>,
    triggers: Family<MetricLabels<1>, ExactCounter>,
    debounce_seconds: Histogram,
    world_seconds: Histogram,
    objects: ExactCounter,
    recomputed: ExactCounter,
    batches: ExactCounter,
    changed: Family<MetricLabels<1>, ExactCounter>,
    proxies_concerned: ExactCounter,
    visited: Family<MetricLabels<1, &'static str>, ExactCounter>,
    batch_seconds: Histogram,
    lost: Family<MetricLabels<1>, Gauge>,
}

impl PipelineMetrics {
    /// Registers all of them, and `translations`, which the classes count.
    pub(super) fn register(registry: &mut Registry, translations: Translations) -> Self {
        let events = "Objects that a source said changed, by kind and event";
        let debounce = Histogram::new([0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0]);
        let world = Histogram::new([0.01, 0.1, 0.5, 1.0, 3.0, 5.0]);
        let batch = Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]);
        registry.register("istiod_lite_translated", "Translations done, by what was translated", translations);
        let mut add = Registration(registry);
        Self {
            registry_events: add.metric("pilot_k8s_reg_events", events, Family::default()),
            config_events: add.metric("pilot_k8s_cfg_events", events, Family::default()),
            inbound: add.metric("pilot_inbound_updates", "Changes that came, by what changed", Family::default()),
            triggers: add.metric("pilot_push_triggers", "Changes that were published, by what changed", Family::default()),
            debounce_seconds: add.metric("pilot_debounce_time", "Seconds from the first change of a batch to its views", debounce),
            world_seconds: add.metric("pilot_pushcontext_init_seconds", "Seconds that making a world took", world),
            objects: add.counter("istiod_lite_objects_applied", "Objects applied to the engine"),
            recomputed: add.counter("istiod_lite_values_recomputed", "Derived values that the engine computed again"),
            batches: add.counter("istiod_lite_batches", "Batches of changes that became worlds"),
            changed: add.metric("istiod_lite_resources_changed", "Shared resources that got new content, by type", Family::default()),
            proxies_concerned: add.counter("istiod_lite_proxies_concerned", "Proxies whose view a batch changed, summed"),
            visited: add.metric("istiod_lite_visited", "Things that batches had loops over the mesh look at, by what", Family::default()),
            batch_seconds: add.metric("istiod_lite_batch_seconds", "From a batch to published views", batch),
            lost: add.metric("istiod_lite_source_lost", "1 while a source is gone and its last word is kept", Family::default()),
        }
    }

    /// Counts what a source said; `known` says whether an object was there before.
    pub(super) fn count_events(&self, changes: &[Change], known: impl Fn(&ObjectKey) -> bool) {
        for change in changes {
            let (key, event) = match change {
                Change::Applied(object) if known(&object.key) => (&object.key, "update"),
                Change::Applied(object) => (&object.key, "add"),
                Change::Deleted(key) => (key, "delete"),
            };
            let (family, kind) = match registry_name(key.kind) {
                Some(name) => (&self.registry_events, name),
                None => (&self.config_events, key.kind.as_str()),
            };
            family.get_or_create(&[("type", kind.into()), ("event", event.into())]).inc();
            let update = match key.kind {
                Kind::EndpointSlice => "eds",
                Kind::Service if event == "delete" => "svcdelete",
                Kind::Service => "svc",
                Kind::Pod | Kind::Node | Kind::Namespace => continue,
                _ => "config",
            };
            self.inbound.get_or_create(&[("type", update.into())]).inc();
        }
    }

    /// Counts a batch of objects that became a world: by kind, how long the world took to make, and the time since the first
    /// change.
    pub(super) fn count_published(&self, kinds: &[Kind], making: Duration, since: Duration) {
        for kind in kinds {
            let trigger = match kind {
                Kind::EndpointSlice | Kind::Pod | Kind::Node | Kind::WorkloadEntry => "endpoint",
                Kind::Service => "service",
                Kind::Namespace => "namespace",
                Kind::MeshConfig => "global",
                Kind::Secret | Kind::ConfigMap => "secret",
                _ => "config",
            };
            self.triggers.get_or_create(&[("type", trigger.into())]).inc();
        }
        self.world_seconds.observe(making.as_secs_f64());
        self.debounce_seconds.observe(since.as_secs_f64());
    }

    /// Counts the work that a batch was.
    pub(super) fn count_batch(&self, objects: usize, recomputed: usize, prepared: &Prepared, took: Duration) {
        self.batches.inc();
        self.objects.add(objects as u64);
        self.recomputed.add(recomputed as u64);
        for (kind, count) in prepared.changed() {
            self.changed.get_or_create(&[("type", kind.as_str().into())]).add(count);
        }
        self.proxies_concerned.add(prepared.proxies().len() as u64);
        self.batch_seconds.observe(took.as_secs_f64());
    }

    /// Counts what the loops over the mesh looked at for a batch.
    pub(super) fn count_visits(&self, visits: Visits) {
        for (what, number) in visits.by_sort() {
            self.visited.get_or_create(&[("what", what)]).add(number);
        }
    }

    /// Records whether a source is lost.
    pub(super) fn set_lost(&self, source: &SmolStr, lost: bool) {
        self.lost.get_or_create(&[("source", source.to_string())]).set(i64::from(lost));
    }
}

/// Returns istiod's word for a kind that Kubernetes itself has.
fn registry_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Service => Some("Services"),
        Kind::EndpointSlice => Some("EndpointSlice"),
        Kind::Pod => Some("Pods"),
        Kind::Node => Some("Nodes"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind) -> ObjectKey {
        ObjectKey { cluster: "c".into(), kind, namespace: "shop".into(), name: "a".into() }
    }

    #[test]
    fn events_are_told_in_istiods_words() {
        let metrics = PipelineMetrics::register(&mut Registry::default(), Translations::default());
        metrics.count_events(&[Change::Deleted(key(Kind::Service)), Change::Deleted(key(Kind::VirtualService))], |_| true);
        let count = |family: &Family<MetricLabels<2>, ExactCounter>, kind: &str| {
            family.get_or_create(&[("type", kind.into()), ("event", "delete".into())]).get()
        };
        assert_eq!((count(&metrics.registry_events, "Services"), count(&metrics.config_events, "VirtualService")), (1, 1));
        let inbound = |what: &str| metrics.inbound.get_or_create(&[("type", what.into())]).get();
        assert_eq!((inbound("svcdelete"), inbound("config"), inbound("svc")), (1, 1, 0));
    }

    #[test]
    fn a_batch_is_told_by_what_changed() {
        let metrics = PipelineMetrics::register(&mut Registry::default(), Translations::default());
        let kinds = [Kind::Pod, Kind::EndpointSlice, Kind::Gateway];
        metrics.count_published(&kinds, Duration::from_millis(1), Duration::from_millis(20));
        let triggered = |what: &str| metrics.triggers.get_or_create(&[("type", what.into())]).get();
        assert_eq!((triggered("endpoint"), triggered("config"), triggered("service")), (2, 1, 0));
    }
}

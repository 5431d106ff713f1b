//! Metrics of the controllers, under istiod's names where it has one (contract §10.2).

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::metrics::{ExactCounter, MetricLabels};

/// Counters of all controllers. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ControllerMetrics {
    leader: Family<MetricLabels<1>, Gauge>,
    root_writes: Family<MetricLabels<1>, ExactCounter>,
    patch_attempts: Family<MetricLabels<1>, ExactCounter>,
    patch_retries: Family<MetricLabels<1>, ExactCounter>,
    patch_failures: Family<MetricLabels<2>, ExactCounter>,
    validation_updates: ExactCounter,
    validation_update_errors: Family<MetricLabels<1>, ExactCounter>,
    ca_offers: Family<MetricLabels<2>, ExactCounter>,
    watch_errors: Family<MetricLabels<1>, ExactCounter>,
    requests_deleted: Family<MetricLabels<1>, ExactCounter>,
    managed_clusters: Family<MetricLabels<1, &'static str>, Gauge>,
    remote_secret_events: Family<MetricLabels<1, &'static str>, ExactCounter>,
    refused_kubeconfigs: Gauge,
}

// === impl ControllerMetrics ===

impl ControllerMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("istiod_lite_leader", "1 while this process leads, by Lease", self.leader.clone());
        registry.register(
            "istiod_lite_root_certificate_writes",
            "Writes of ConfigMaps with the root certificate, by result",
            self.root_writes.clone(),
        );
        registry.register("webhook_patch_attempts_total", "Writes of a webhook's caBundle, by webhook", self.patch_attempts.clone());
        registry.register("webhook_patch_retries_total", "Writes that followed a failed one, by configuration", self.patch_retries.clone());
        registry.register("webhook_patch_failures_total", "Failed writes, by configuration and reason", self.patch_failures.clone());
        let updates = "Writes of validating webhook configurations";
        registry.register("galley_validation_config_updates", updates, self.validation_updates.clone());
        let errors = "Failed writes of validating webhook configurations, by the API server's reason";
        registry.register("galley_validation_config_update_error", errors, self.validation_update_errors.clone());
        registry.register(
            "istiod_lite_ca_offers",
            "CAs found in Secrets while running, by Secret and what became of them: accepted, unchanged, refused",
            self.ca_offers.clone(),
        );
        registry.register(
            "istiod_lite_certificate_requests_deleted",
            "CertificateSigningRequests of ours that were deleted, by reason: used, left_over",
            self.requests_deleted.clone(),
        );
        let clusters = "Clusters whose callers are known by their tokens: our own (local), and those of remote Secrets (remote)";
        registry.register("istiod_managed_clusters", clusters, self.managed_clusters.clone());
        let events = "Secrets of remote clusters that were seen for the first time, changed or deleted, by event";
        registry.register("remote_cluster_secret_events_total", events, self.remote_secret_events.clone());
        let refused = "Entries of remote Secrets that are not in effect: Events on the Secret say why";
        registry.register("istiod_lite_remote_kubeconfigs_refused", refused, self.refused_kubeconfigs.clone());
        registry.register("istiod_lite_controller_watch_errors", "Failed watches of controllers", self.watch_errors.clone());
    }

    pub(super) fn set_leader(&self, lease: &str, leads: bool) {
        self.leader.get_or_create(&[("lease", lease.into())]).set(i64::from(leads));
    }

    pub(super) fn count_root_write(&self, result: &str) {
        self.root_writes.get_or_create(&[("result", result.into())]).inc();
    }

    pub(super) fn count_patch_attempt(&self, configuration: &str) {
        self.patch_attempts.get_or_create(&[("name", configuration.into())]).inc();
    }

    pub(super) fn count_patch_retry(&self, configuration: &str) {
        self.patch_retries.get_or_create(&[("name", configuration.into())]).inc();
    }

    pub(super) fn count_patch_failure(&self, configuration: &str, reason: &str) {
        self.patch_failures.get_or_create(&[("name", configuration.into()), ("reason", reason.into())]).inc();
    }

    /// Counts a write of a validating webhook configuration, with the reason if it failed.
    pub(super) fn count_validation_update(&self, failed: Option<&str>) {
        match failed {
            None => self.validation_updates.inc(),
            Some(reason) => self.validation_update_errors.get_or_create(&[("reason", reason.into())]).inc(),
        }
    }

    pub(super) fn count_ca_offer(&self, secret: &str, result: &str) {
        self.ca_offers.get_or_create(&[("secret", secret.into()), ("result", result.into())]).inc();
    }

    pub(super) fn count_request_deleted(&self, why: &str) {
        self.requests_deleted.get_or_create(&[("reason", why.into())]).inc();
    }

    /// Notes how many remote clusters there are, and how many entries of remote Secrets are refused.
    pub(super) fn set_remote_clusters(&self, known: usize, refused: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.managed_clusters.get_or_create(&[("cluster_type", "local")]).set(1);
        self.managed_clusters.get_or_create(&[("cluster_type", "remote")]).set(number(known));
        self.refused_kubeconfigs.set(number(refused));
    }

    pub(super) fn count_remote_secret_event(&self, event: &'static str) {
        self.remote_secret_events.get_or_create(&[("event", event)]).inc();
    }

    pub(super) fn count_watch_error(&self, controller: &str) {
        self.watch_errors.get_or_create(&[("controller", controller.into())]).inc();
    }
}

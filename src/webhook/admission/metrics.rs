//! Counters of the validating webhook, under istiod's names (contract §10.2).

use axum::http::StatusCode;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::judge::RefusalReason;
use crate::{
    metrics::{ExactCounter, MetricLabels},
    webhook::review::GroupVersionResource,
};

/// What was let pass and what was not.
#[derive(Clone, Debug, Default)]
pub struct AdmissionMetrics {
    passed: Family<MetricLabels<3>, ExactCounter>,
    failed: Family<MetricLabels<4>, ExactCounter>,
    http_errors: Family<MetricLabels<1>, ExactCounter>,
    late: Counter,
}

impl AdmissionMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("galley_validation_passed", "Objects that the validating webhook let pass", self.passed.clone());
        registry.register("galley_validation_failed", "Objects that the validating webhook refused", self.failed.clone());
        registry.register("galley_validation_http_error", "Requests that were no question to it", self.http_errors.clone());
        let help = "Reviews of objects that came to their deadline before the object was checked";
        registry.register("istiod_lite_admissions_late", help, self.late.clone());
    }

    /// Returns the counter of the reviews that came to their deadline.
    pub(super) fn late(&self) -> Counter {
        self.late.clone()
    }

    pub(super) fn count(&self, resource: &GroupVersionResource, refused: Option<RefusalReason>) {
        // What a resource is called is the API server's word: whoever else asks must not make series without end.
        let known = |text: &str| if text.len() <= 64 { text.to_owned() } else { "unknown".to_owned() };
        let (group, version) = (("group", known(&resource.group)), ("version", known(&resource.version)));
        let resource = ("resource", known(&resource.resource));
        match refused {
            None => self.passed.get_or_create(&[group, version, resource]).inc(),
            Some(reason) => self.failed.get_or_create(&[group, version, resource, ("reason", reason.as_str().to_owned())]).inc(),
        }
    }

    pub(super) fn not_understood(&self, status: StatusCode) {
        self.http_errors.get_or_create(&[("status", status.as_u16().to_string())]).inc();
    }
}

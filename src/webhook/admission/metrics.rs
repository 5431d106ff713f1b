//! Counters of the validating webhook, under istiod's names (contract §10.2).

use axum::http::StatusCode;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::judge::RefusalReason;
use crate::{
    api::{ApiResource, Kind},
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
        let [group, version, resource] = known(resource).map(ToOwned::to_owned);
        let (group, version, resource) = (("group", group), ("version", version), ("resource", resource));
        match refused {
            None => self.passed.get_or_create(&[group, version, resource]).inc(),
            Some(reason) => self.failed.get_or_create(&[group, version, resource, ("reason", reason.as_str().to_owned())]).inc(),
        }
    }

    pub(super) fn not_understood(&self, status: StatusCode) {
        self.http_errors.get_or_create(&[("status", status.as_u16().to_string())]).inc();
    }
}

/// Returns what names a resource that is read. Anybody may ask about others, and must not make series without end.
fn known(resource: &GroupVersionResource) -> [&str; 3] {
    let GroupVersionResource { group, version, resource } = resource;
    let mut read = Kind::ALL.into_iter().filter(|kind| kind.is_configuration()).filter_map(Kind::resource);
    let is_read =
        |known: &'static ApiResource| known.group == *group && known.plural == *resource && known.versions.contains(&version.as_str());
    if read.any(is_read) { [group, version, resource] } else { ["unknown"; 3] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_that_are_not_read_have_one_name() {
        let named = |group: &str, version: &str, resource: &str| {
            let written = serde_json::json!({"group": group, "version": version, "resource": resource});
            let read: GroupVersionResource = serde_json::from_value(written).unwrap();
            known(&read).map(ToOwned::to_owned)
        };
        assert_eq!(named("networking.istio.io", "v1", "gateways"), ["networking.istio.io", "v1", "gateways"]);
        for (group, version, resource) in [("networking.istio.io", "v9", "gateways"), ("a\nb", "v1", "gateways"), ("", "v1", "pods")] {
            assert_eq!(named(group, version, resource), ["unknown"; 3]);
        }
    }
}

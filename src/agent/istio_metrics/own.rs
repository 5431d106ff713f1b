//! What metrics say of the proxy's own workload.

use crate::{agent::settings::Settings, workload_labels::WorkloadLabels};

/// The labels of the proxy's own workload, ready to be written.
pub(crate) struct Own {
    text: [String; 7],
    identity: String,
}

impl Own {
    /// Takes them from the settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        let workload = &settings.workload;
        let WorkloadLabels { workload: name, namespace, canonical_service, canonical_revision, cluster, app, version } = workload.labels();
        let text = [name, namespace, canonical_service, canonical_revision, cluster, app, version].map(escaped);
        Self { text, identity: escaped(&workload.spiffe_id()) }
    }

    /// Returns the labels.
    pub(super) fn labels(&self) -> WorkloadLabels<'_> {
        let [workload, namespace, canonical_service, canonical_revision, cluster, app, version] = self.text.each_ref().map(String::as_str);
        WorkloadLabels { workload, namespace, canonical_service, canonical_revision, cluster, app, version }
    }

    /// Returns the SPIFFE id.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }
}

/// Returns a value as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

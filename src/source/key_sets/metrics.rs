//! Counts of what was fetched, under istiod's names.

use prometheus_client::registry::Registry;

use crate::metrics::ExactCounter;

/// Counters of the key sets. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySetMetrics {
    fetched: ExactCounter,
    failed: ExactCounter,
}

impl KeySetMetrics {
    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let fetched = "Times that keys of an issuer were fetched";
        registry.register("pilot_jwks_resolver_network_fetch_success_total", fetched, self.fetched.clone());
        let failed = "Times that keys of an issuer could not be fetched";
        registry.register("pilot_jwks_resolver_network_fetch_fail_total", failed, self.failed.clone());
    }

    /// Counts an attempt.
    pub(super) fn count(&self, fetched: bool) {
        if fetched {
            self.fetched.inc()
        } else {
            self.failed.inc()
        };
    }
}

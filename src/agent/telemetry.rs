//! The agent's counters, served as `/metrics` on its port.

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::SystemTime,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The agent's counters.
#[derive(Debug)]
pub(crate) struct Telemetry {
    registry: Registry,
    certificates: Counter<u64, AtomicU64>,
    certificate_failures: Counter<u64, AtomicU64>,
    certificate_expiry: Gauge<i64, AtomicI64>,
    streams: Counter<u64, AtomicU64>,
    dial_failures: Counter<u64, AtomicU64>,
    scrape_failures: Counter<u64, AtomicU64>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (certificates, certificate_failures, certificate_expiry) = (Counter::default(), Counter::default(), Gauge::default());
        let (streams, dial_failures, scrape_failures) = (Counter::default(), Counter::default(), Counter::default());
        registry.register("istiod_lite_agent_certificates", "Certificates received", certificates.clone());
        registry.register("istiod_lite_agent_certificate_failures", "Requests for a certificate that failed", certificate_failures.clone());
        registry.register(
            "istiod_lite_agent_certificate_expiry_timestamp_seconds",
            "When the certificate expires, Unix time",
            certificate_expiry.clone(),
        );
        registry.register("istiod_lite_agent_xds_streams", "Streams opened to the control plane", streams.clone());
        registry.register("istiod_lite_agent_xds_dial_failures", "Failed attempts to reach the control plane", dial_failures.clone());
        registry.register("istiod_lite_agent_scrape_failures", "Failed attempts to get the application's metrics", scrape_failures.clone());
        Self { registry, certificates, certificate_failures, certificate_expiry, streams, dial_failures, scrape_failures }
    }
}

impl Telemetry {
    /// Counts a certificate, and records when it expires.
    pub(crate) fn certificate_issued(&self, not_after: SystemTime) {
        self.certificates.inc();
        let seconds = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.certificate_expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Counts a request for a certificate that failed.
    pub(crate) fn certificate_failed(&self) {
        self.certificate_failures.inc();
    }

    /// Counts an ADS stream that reached the control plane.
    pub(crate) fn stream_opened(&self) {
        self.streams.inc();
    }

    /// Counts a failure to reach the control plane.
    pub(crate) fn dial_failed(&self) {
        self.dial_failures.inc();
    }

    /// Counts a failure to get the application's metrics.
    pub(crate) fn scrape_failed(&self) {
        self.scrape_failures.inc();
    }

    /// Returns the metrics as OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let telemetry = Telemetry::default();
        telemetry.certificate_issued(SystemTime::UNIX_EPOCH + Duration::from_secs(77));
        telemetry.dial_failed();
        telemetry.dial_failed();
        let text = telemetry.text();
        for line in [
            "istiod_lite_agent_certificates_total 1",
            "istiod_lite_agent_certificate_expiry_timestamp_seconds 77",
            "istiod_lite_agent_xds_dial_failures_total 2",
            "istiod_lite_agent_xds_streams_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}

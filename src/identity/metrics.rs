//! The CA's counters, by istiod's names (contract §10.2).

use std::sync::atomic::AtomicI64;

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::metrics::{ExactCounter, MetricLabels};

/// Why signing failed (label of `citadel_server_csr_sign_err_count`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SignError {
    /// `csr_error`, `ttl_error`, `cert_gen_error`
    pub error: String,
}

/// What the CA counts. Cloning shares the counters.
#[derive(Clone, Debug, Default)]
pub struct CaMetrics {
    /// Requests received.
    pub requests: ExactCounter,
    /// Requests whose caller could not be proven.
    pub authentication_failures: ExactCounter,
    /// Requests whose CSR could not be read.
    pub csr_parsing_errors: ExactCounter,
    /// Callers without an identity.
    pub id_extraction_errors: ExactCounter,
    /// Requests that were not signed, by reason.
    pub sign_errors: Family<SignError, ExactCounter>,
    /// Certificates issued.
    pub issued: ExactCounter,
    /// What external signers answered, by result.
    pub signer_answers: Family<MetricLabels<1>, ExactCounter>,
    /// When the root that signs the chain expires, Unix seconds.
    pub root_expiry: Gauge<i64, AtomicI64>,
    /// When the chain up to the root expires first, Unix seconds.
    pub chain_expiry: Gauge<i64, AtomicI64>,
    /// Root certificates that cannot be read.
    pub unreadable_roots: Gauge<i64, AtomicI64>,
    /// Certificates that the lists in use revoke.
    pub revoked: Gauge<i64, AtomicI64>,
    /// When the first of these lists stops being valid, Unix seconds; 0: there is none, or it never does.
    pub revocation_expiry: Gauge<i64, AtomicI64>,
}

/// The seconds until a moment, computed on each scrape.
#[derive(Clone)]
struct SecondsUntil {
    moment: Gauge<i64, AtomicI64>,
    clock: super::Clock,
}

impl std::fmt::Debug for SecondsUntil {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SecondsUntil").field(&self.moment.get()).finish()
    }
}

impl EncodeMetric for SecondsUntil {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_gauge(&(self.moment.get() - (self.clock)().as_second()))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

// === impl CaMetrics ===

impl CaMetrics {
    /// Registers all counters, under istiod's names.
    pub fn register(&self, registry: &mut Registry, clock: &super::Clock) {
        registry.register("citadel_server_csr_count", "Certificate requests received", self.requests.clone());
        registry.register(
            "citadel_server_authentication_failure_count",
            "Certificate requests whose caller could not be proven",
            self.authentication_failures.clone(),
        );
        registry.register(
            "citadel_server_csr_parsing_err_count",
            "Certificate requests that could not be read",
            self.csr_parsing_errors.clone(),
        );
        registry.register(
            "citadel_server_id_extraction_err_count",
            "Certificate requests of callers without an identity",
            self.id_extraction_errors.clone(),
        );
        registry.register("citadel_server_csr_sign_err_count", "Certificate requests not signed, by reason", self.sign_errors.clone());
        registry.register("citadel_server_success_cert_issuance_count", "Certificates issued", self.issued.clone());
        registry.register(
            "istiod_lite_signer_answers",
            "What external signers answered, by result; a wrong answer is counted as signed, too",
            self.signer_answers.clone(),
        );
        let expiries = [("root_cert", "The root", &self.root_expiry), ("cert_chain", "The chain to the root", &self.chain_expiry)];
        for (name, words, moment) in expiries {
            registry.register(format!("citadel_server_{name}_expiry_timestamp"), format!("{words} expires, Unix seconds"), moment.clone());
            registry.register(
                format!("citadel_server_{name}_expiry_seconds"),
                format!("{words} expires in so many seconds"),
                SecondsUntil { moment: moment.clone(), clock: clock.clone() },
            );
        }
        registry.register(
            "istiod_lite_ca_unreadable_roots",
            "Root certificates that cannot be read and are passed over",
            self.unreadable_roots.clone(),
        );
        registry.register("istiod_lite_ca_revoked_certificates", "Certificates that the lists in use revoke", self.revoked.clone());
        registry.register(
            "istiod_lite_ca_revocation_expiry_timestamp",
            "When the first list of revoked certificates stops being valid, Unix seconds; 0: there is none",
            self.revocation_expiry.clone(),
        );
    }

    /// Records how many certificates are revoked, and when proxies want newer lists.
    pub fn set_revocation(&self, revoked: usize, expiry: Option<Timestamp>) {
        self.revoked.set(i64::try_from(revoked).unwrap_or(i64::MAX));
        self.revocation_expiry.set(expiry.map_or(0, Timestamp::as_second));
    }

    /// Records when the certificates in use expire, and how many roots beside them cannot be read.
    pub fn set_certificates(&self, root: Timestamp, chain: Timestamp, unreadable_roots: usize) {
        self.root_expiry.set(root.as_second());
        self.chain_expiry.set(chain.as_second());
        self.unreadable_roots.set(i64::try_from(unreadable_roots).unwrap_or(i64::MAX));
    }

    pub(super) fn count_signer_answer(&self, result: &str) {
        self.signer_answers.get_or_create(&[("result", result.into())]).inc();
    }

    pub(super) fn count_sign_error(&self, reason: &str) {
        self.sign_errors.get_or_create(&SignError { error: reason.into() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn names_are_written_as_istiod_writes_them() {
        let (metrics, mut registry) = (CaMetrics::default(), Registry::default());
        let clock: super::super::Clock = Arc::new(|| Timestamp::from_second(1_000).unwrap());
        metrics.register(&mut registry, &clock);
        metrics.requests.inc();
        metrics.count_sign_error("csr_error");
        metrics.set_certificates(Timestamp::from_second(4_000).unwrap(), Timestamp::from_second(3_000).unwrap(), 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE citadel_server_csr_count counter\n",
            "\ncitadel_server_csr_count 1\n",
            "\ncitadel_server_csr_sign_err_count{error=\"csr_error\"} 1\n",
            "\ncitadel_server_root_cert_expiry_timestamp 4000\n",
            "\ncitadel_server_cert_chain_expiry_seconds 2000\n",
            "\nistiod_lite_ca_unreadable_roots 1\n",
        ] {
            assert!(text.contains(line), "{line:?} not in\n{text}");
        }
    }
}

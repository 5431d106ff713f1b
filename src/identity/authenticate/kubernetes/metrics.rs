//! Counters of how tokens are decided.

use prometheus_client::{metrics::family::Family, registry::Registry};

use crate::{
    identity::{proof::Proof, token::TokenError},
    metrics::{ExactCounter, MetricLabels},
};

/// Counters of token checks. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct TokenMetrics {
    decisions: Family<MetricLabels<1, &'static str>, ExactCounter>,
    reviews: Family<MetricLabels<1, &'static str>, ExactCounter>,
    fetches: Family<MetricLabels<1, &'static str>, ExactCounter>,
}

// === impl TokenMetrics ===

impl TokenMetrics {
    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "istiod_lite_tokens",
            "Service-account tokens presented, by outcome: known_pod and reviewed are good, others say why not",
            self.decisions.clone(),
        );
        registry.register("istiod_lite_token_reviews", "TokenReviews asked for, by result", self.reviews.clone());
        registry.register("istiod_lite_token_key_fetches", "Fetches of the cluster's token keys, by result", self.fetches.clone());
    }

    #[cfg(test)]
    pub(super) fn decisions(&self, outcome: &'static str) -> u64 {
        self.decisions.get_or_create(&[("outcome", outcome)]).get()
    }

    pub(super) fn count_decision(&self, decided: Result<Proof, &TokenError>) {
        let outcome = match decided {
            Ok(Proof::PodToken) => "known_pod",
            Ok(_) => "reviewed",
            Err(error) => reason(error),
        };
        self.decisions.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(super) fn count_review(&self, result: &'static str) {
        self.reviews.get_or_create(&[("result", result)]).inc();
    }

    pub(super) fn count_fetch(&self, worked: bool) {
        self.fetches.get_or_create(&[("result", if worked { "success" } else { "failure" })]).inc();
    }
}

fn reason(error: &TokenError) -> &'static str {
    match error {
        TokenError::Malformed(_) => "malformed",
        TokenError::Algorithm => "algorithm",
        TokenError::UnknownKey => "unknown_key",
        TokenError::Signature => "signature",
        TokenError::Expired(_) => "expired",
        TokenError::NotYetValid(_) => "not_yet_valid",
        TokenError::Issuer(_) => "issuer",
        TokenError::Audience(_) => "audience",
        TokenError::Subject(_) => "subject",
        TokenError::Review(_) => "review",
        TokenError::Unavailable(_) => "unavailable",
    }
}

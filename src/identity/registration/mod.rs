//! Certificates that others sign, while we say who is who: istiod's registration authority.
//!
//! | Step | Who |
//! |---|---|
//! | proves who calls | [`authenticate`](super::authenticate), as for our own CA |
//! | checks that the request names the caller and nothing else | [`signing_request`](super::signing_request) |
//! | hands it to the signer, and waits | a [`Signer`]: the Kubernetes API in `controllers::certificate_requests` |
//! | checks that the answer is what was asked for | `answer` |
//!
//! The signer takes over what the request says, so that the first check is what keeps names apart; the second keeps a signer that
//! errs, or that somebody else has taken, from being believed.

mod answer;
mod error;
mod roots;
mod signer;
mod turns;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::sync::watch;
use tracing::warn;

pub use self::{
    answer::AnswerError,
    error::RegistrationError,
    roots::SignerRoots,
    signer::{Signer, SignerError, SignerName, SignerNameError, Submission, Usage},
};
use self::{
    answer::{Answer, Names, Wanted},
    turns::Turns,
};
use super::{
    Clock,
    ca::{IssuePolicy, identity_uri},
    certificate::Certificate,
    metrics::CaMetrics,
    signing_request::SigningRequest,
};
use crate::mesh::model::SpiffeId;

/// The shortest lifetime that Kubernetes lets a request ask for.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(600);

/// Which signers are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignerChoice {
    /// Who signs for callers that name nobody (`K8S_SIGNER`).
    pub default: Option<SignerName>,
    /// The domain of the signers that callers may name (`CERT_SIGNER_DOMAIN`); `None`: they may name none.
    pub domain: Option<String>,
}

/// Has certificates signed by others.
pub struct RegistrationAuthority {
    signer: Arc<dyn Signer>,
    choice: SignerChoice,
    roots: watch::Receiver<Arc<SignerRoots>>,
    policy: IssuePolicy,
    turns: Turns,
    clock: Clock,
    metrics: CaMetrics,
}

/// A certificate that was signed, and found to be the one that was asked for.
#[derive(Clone, Debug)]
pub struct Signed {
    leaf: Certificate,
    /// What is between the leaf and the root.
    pub above: Vec<Certificate>,
    /// The PEM of the signer's roots.
    pub roots: String,
    /// Who signed.
    pub signer: SignerName,
}

// === impl SignerChoice ===

impl SignerChoice {
    /// Returns who signs for a caller that names this signer, or nobody (`CertSigner` in the metadata of its request).
    ///
    /// # Errors
    /// When nobody does.
    pub fn of(&self, named: Option<&str>) -> Result<SignerName, RegistrationError> {
        match (named, &self.domain) {
            (Some(name), Some(domain)) => Ok(SignerName::parse(&format!("{domain}/{name}"))?),
            (Some(name), None) => Err(RegistrationError::NoDomain(name.into())),
            (None, _) => self.default.clone().ok_or(RegistrationError::NoDefault),
        }
    }
}

// === impl RegistrationAuthority ===

impl RegistrationAuthority {
    /// Returns an authority that has certificates signed by `signer`, and believes those that chain to `roots`.
    pub fn new(
        signer: Arc<dyn Signer>,
        choice: SignerChoice,
        roots: watch::Receiver<Arc<SignerRoots>>,
        policy: IssuePolicy,
        clock: Clock,
        metrics: CaMetrics,
    ) -> Self {
        Self { signer, choice, roots, policy, turns: Turns::default(), clock, metrics }
    }

    /// Has a workload's certificate signed: for `caller`, with the key of the PEM request, by the signer that it names.
    ///
    /// `ttl_seconds` of zero or less means the policy's default.
    ///
    /// # Errors
    /// When the request asks for anything else, or the signer gives nothing, or something else.
    pub async fn issue(
        &self,
        request_pem: &str,
        caller: &SpiffeId,
        ttl_seconds: i64,
        named: Option<&str>,
    ) -> Result<Signed, RegistrationError> {
        let lifetime = self.policy.ttl(ttl_seconds)?;
        let uri = identity_uri(caller)?;
        let request = SigningRequest::read(request_pem)?;
        request.asks_only_for(&uri)?;
        let signer = self.choice.of(named)?;
        self.check_roots(&signer)?;
        let _turn = self.turns.take(caller).await.ok_or(RegistrationError::Busy)?;
        let submission = Submission { signer, request: request.pem(), lifetime: lifetime.max(SHORTEST_LIFETIME), usage: Usage::Workload };
        self.submit(submission, request.key_bits(), Names::Identity(&uri), self.policy.max_ttl).await
    }

    /// Has a certificate of one of our own listeners signed.
    ///
    /// # Errors
    /// When the signer gives none, or another one.
    pub async fn issue_serving(
        &self,
        signer: &SignerName,
        key: &KeyPair,
        dns_names: &[String],
        lifetime: Duration,
    ) -> Result<Signed, RegistrationError> {
        self.check_roots(signer)?;
        let request = serving_request(key, dns_names).map_err(|error| RegistrationError::Request(error.to_string()))?;
        let submission = Submission { signer: signer.clone(), request, lifetime, usage: Usage::Serving };
        // How long our own certificate lives is the signer's affair: nobody is let in by it.
        self.submit(submission, key.public_key_raw(), Names::Dns(dns_names), Duration::MAX).await
    }

    /// Refuses to ask somebody whose answer nobody could judge.
    fn check_roots(&self, signer: &SignerName) -> Result<(), RegistrationError> {
        let unknown = self.roots.borrow().of(signer).is_empty();
        if unknown { Err(RegistrationError::NoRoots(signer.clone())) } else { Ok(()) }
    }

    async fn submit(&self, submission: Submission, key: &[u8], names: Names<'_>, longest: Duration) -> Result<Signed, RegistrationError> {
        let (signer, usage) = (submission.signer.clone(), submission.usage);
        let result = self.signer.sign(submission).await;
        self.metrics.count_signer_answer(match &result {
            Ok(_) => "signed",
            Err(error) => error.result(),
        });
        let text = result.map_err(|error| RegistrationError::Signer { signer: signer.clone(), error })?;
        // They may have changed meanwhile.
        let known = Arc::clone(&self.roots.borrow());
        let (roots, now) = (known.of(&signer), (self.clock)());
        let wanted = Wanted { key, names, usage, latest_end: self.latest_end(now, longest), roots, now };
        match answer::check(&text, &wanted) {
            Ok(Answer { leaf, above }) => Ok(Signed { leaf, above, roots: known.bundle_of(&signer), signer }),
            Err(error) => {
                self.metrics.count_signer_answer("wrong_answer");
                warn!(%signer, %error, "what the signer answered is not handed on");
                Err(RegistrationError::Answer { signer, error })
            }
        }
    }

    fn latest_end(&self, now: Timestamp, longest: Duration) -> Timestamp {
        let longest = SignedDuration::try_from(longest.saturating_add(self.policy.clock_skew)).unwrap_or(SignedDuration::MAX);
        now.checked_add(longest).unwrap_or(Timestamp::MAX)
    }
}

// === impl Signed ===

impl Signed {
    /// Returns the chain in the order of Istio's protocol (contract §4.1): the leaf, each intermediate, then the whole root bundle.
    pub fn into_chain(self) -> Vec<String> {
        [&self.leaf].into_iter().chain(&self.above).map(Certificate::pem).chain([self.roots]).collect()
    }

    /// Returns the certificate itself.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
}

fn serving_request(key: &KeyPair, dns_names: &[String]) -> Result<String, rcgen::Error> {
    let mut parameters = CertificateParams::new(dns_names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.serialize_request(key)?.pem()
}

#[cfg(test)]
mod tests;

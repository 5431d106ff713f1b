//! Who signs in our place, and what may go wrong there.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use smol_str::SmolStr;

use crate::peer_text::PeerText;

/// The longest name of a signer that Kubernetes takes.
const LONGEST_NAME: usize = 571;

/// The name of a signer of the Kubernetes API: `example.com/mesh`, `clusterissuers.cert-manager.io/mesh`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignerName(SmolStr);

/// Not the name of a signer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is not the name of a signer; write example.com/mesh")]
pub struct SignerNameError(PeerText);

/// What certificates are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A workload's: for both sides of mTLS.
    Workload,
    /// One of our own listeners'.
    Serving,
}

/// What a signer is asked for. Whoever hands it over has checked every word of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Who is to sign.
    pub signer: SignerName,
    /// The request, as PEM.
    pub request: String,
    /// How long the certificate is to live.
    pub lifetime: Duration,
    /// What it is for.
    pub usage: Usage,
}

/// Hands requests to signers and waits for their certificates.
pub trait Signer: Send + Sync {
    /// Returns what the signer has made of the request: PEM that nobody has checked yet.
    fn sign(&self, submission: Submission) -> BoxFuture<'_, Result<String, SignerError>>;
}

/// Why a signer gave no certificate.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignerError {
    /// The way to the signer is blocked: the API server is away, or does not do what it is asked.
    #[error("the request cannot be handed over: {0}")]
    Unavailable(PeerText),
    /// We lack a right.
    #[error("the request may not be handed over: {0}; see docs/certificates.md for the rights that this needs")]
    Forbidden(PeerText),
    /// The API server refuses what we hand over.
    #[error("the request was refused: {0}")]
    Refused(PeerText),
    /// There was no answer in time.
    #[error("no answer within {} s; is it running, and does it sign for this name?", .0.as_secs_f64())]
    Silent(Duration),
    /// Somebody denied the request.
    #[error("the request was denied: {0}")]
    Denied(PeerText),
    /// The signer could not sign.
    #[error("the signer failed: {0}")]
    Failed(PeerText),
    /// Somebody deleted the request before it was signed.
    #[error("the request was deleted before it was signed")]
    Gone,
}

// === impl SignerName ===

impl SignerName {
    /// Reads a name as Kubernetes takes it: a domain, and what names the signer in it.
    ///
    /// # Errors
    /// When Kubernetes would not take it.
    pub fn parse(text: &str) -> Result<Self, SignerNameError> {
        let plain = |part: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
            part.bytes().all(inner) && part.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
        };
        let valid = text.len() <= LONGEST_NAME
            && text.split_once('/').is_some_and(|(domain, path)| domain.contains('.') && plain(domain) && plain(path));
        if valid { Ok(Self(text.into())) } else { Err(SignerNameError(PeerText::new(text))) }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for name in ["example.com/mesh", "issuers.cert-manager.io/istio-system.mesh-ca", "kubernetes.io/legacy-unknown"] {
            assert_eq!(SignerName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "mesh", "example.com/", "/mesh", "example/mesh", "a.b/c/d", "a.b/C", "a.b/c d", "a..b/c", "a.b/-c", "a.b/c\n"] {
            assert!(SignerName::parse(name).is_err(), "{name:?}");
        }
        assert!(SignerName::parse(&format!("a.b/{}", "c".repeat(600))).is_err());
    }
}

//! Service-account tokens: what they claim, and why one proves nothing (contract §4.2).

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    is_plain_name,
    proof::{PodReference, Proven},
};
use crate::{mesh::model::SpiffeId, peer_text::PeerText};

/// How far apart clocks may be, in seconds.
const LEEWAY: i64 = 30;
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// One way to prove an identity by token. The local issuer's key set is one, Kubernetes' TokenReview another.
pub trait TokenVerifier: Send + Sync {
    /// Returns the identity that the token proves.
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Proven, TokenError>>;
}

/// Why a token proves nothing. What it says is a peer's text, and is logged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a JWT.
    #[error("not a JSON web token: {0}")]
    Malformed(PeerText),
    /// Its algorithm is not one of our keys'; symmetric algorithms and `none` never are.
    #[error("algorithm of the token is not that of a known key")]
    Algorithm,
    /// It names a key that we do not know.
    #[error("signed with a key that is not known")]
    UnknownKey,
    /// No key that we know made the signature.
    #[error("signature is not by a known key")]
    Signature,
    /// It has expired.
    #[error("expired at {0}")]
    Expired(i64),
    /// It is not valid yet.
    #[error("not valid before {0}")]
    NotYetValid(i64),
    /// It is from another issuer.
    #[error("issuer {0} is not the expected one")]
    Issuer(PeerText),
    /// It is for another audience.
    #[error("audience {0} has none of the expected ones")]
    Audience(PeerText),
    /// Its subject is not a service account.
    #[error("subject {0} is not system:serviceaccount:<namespace>:<name>")]
    Subject(PeerText),
    /// Kubernetes refuses it: mostly its pod or service account is gone.
    #[error("TokenReview refuses it: {0}")]
    Review(PeerText),
    /// Whoever decides could not be asked.
    #[error("cannot be checked now: {0}")]
    Unavailable(String),
}

/// The claims of a token whose signature was verified.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaims>,
}

/// The object that the token is bound to.
#[derive(Debug, Deserialize)]
struct KubernetesClaims {
    #[serde(default)]
    namespace: String,
    pod: Option<PodReference>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(untagged)]
enum Audience {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

// === impl Claims ===

impl Claims {
    /// Checks that the token is valid now.
    pub(super) fn check_times(&self, now: Timestamp) -> Result<(), TokenError> {
        let now = now.as_second();
        // Whole seconds suffice; a float beyond i64 saturates, which keeps the comparison right.
        let expiry = self.exp.map(|seconds| seconds as i64).ok_or_else(|| TokenError::Malformed("no exp".into()))?;
        if expiry.saturating_add(LEEWAY) <= now {
            return Err(TokenError::Expired(expiry));
        }
        match self.nbf.map(|seconds| seconds as i64).filter(|begin| begin.saturating_sub(LEEWAY) > now) {
            Some(begin) => Err(TokenError::NotYetValid(begin)),
            None => Ok(()),
        }
    }

    /// Checks that it is from this issuer.
    pub(super) fn check_issuer(&self, issuer: &str) -> Result<(), TokenError> {
        if self.iss == issuer { Ok(()) } else { Err(TokenError::Issuer(PeerText::new(&self.iss))) }
    }

    /// Checks that it is for one of these audiences.
    pub(super) fn check_audience(&self, accepted: &[String]) -> Result<(), TokenError> {
        let audiences = match &self.aud {
            Audience::None => &[],
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Several(several) => several.as_slice(),
        };
        match audiences.iter().any(|audience| accepted.contains(audience)) {
            true => Ok(()),
            false => Err(TokenError::Audience(PeerText::new(&format!("{audiences:?}")))),
        }
    }

    /// Returns whose token it is.
    pub(super) fn identity(&self, trust_domain: &str) -> Result<SpiffeId, TokenError> {
        identity_of(&self.sub, trust_domain)
    }

    /// Returns the namespace that it names and the pod that it is bound to.
    pub(super) fn pod(&self) -> Option<(&str, &PodReference)> {
        let bound = self.kubernetes.as_ref()?;
        Some((bound.namespace.as_str(), bound.pod.as_ref().filter(|pod| !pod.uid.is_empty())?))
    }
}

/// Reads `system:serviceaccount:<namespace>:<name>` as an identity.
pub fn identity_of(subject: &str, trust_domain: &str) -> Result<SpiffeId, TokenError> {
    let account = subject.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) if is_plain_name(namespace) && is_plain_name(name) => {
            Ok(SpiffeId { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: name.into() })
        }
        _ => Err(TokenError::Subject(PeerText::new(subject))),
    }
}

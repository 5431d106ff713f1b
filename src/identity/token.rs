//! What a service account's token says, and whether that holds (contract §4.2).
//!
//! [`KeySetVerifier`] is for the folder source, whose issuer is [`local_issuer`](super::local_issuer). In Kubernetes a
//! signature check alone would accept tokens of pods that are gone: see
//! [`authenticate::kubernetes`](super::authenticate::kubernetes).

use std::path::Path;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::Deserialize;
use smol_str::SmolStr;

use super::{
    authenticate::TokenVerifier,
    is_plain_name,
    key_set::{KeySet, KeySetError},
};
use crate::mesh::model::SpiffeId;

/// How far clocks may be apart, in seconds.
const LEEWAY: i64 = 30;
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// Checks tokens against a set of public keys.
pub struct KeySetVerifier {
    keys: KeySet,
    issuer: String,
    audiences: Vec<String>,
    trust_domain: SmolStr,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a JWT.
    #[error("not a JSON web token: {0}")]
    Malformed(String),
    /// Its algorithm is none that a key of ours has: symmetric ones and `none` never are.
    #[error("algorithm of the token is not that of a known key")]
    Algorithm,
    /// It names a key that we do not have.
    #[error("signed with a key that is not known")]
    UnknownKey,
    /// No key of ours made the signature.
    #[error("signature is not by a known key")]
    Signature,
    /// Too late.
    #[error("expired at {0}")]
    Expired(i64),
    /// Too early.
    #[error("not valid before {0}")]
    NotYetValid(i64),
    /// Another issuer's.
    #[error("issuer {0:?} is not the expected one")]
    Issuer(String),
    /// For somebody else.
    #[error("audience {0:?} has none of the expected ones")]
    Audience(Vec<String>),
    /// Not a service account.
    #[error("subject {0:?} is not system:serviceaccount:<namespace>:<name>")]
    Subject(String),
    /// Kubernetes says that it is not, or no longer, good: its pod or service account is gone.
    #[error("TokenReview refuses it: {0}")]
    Review(String),
    /// The one who should decide could not be asked.
    #[error("cannot be checked now: {0}")]
    Unavailable(String),
}

/// What a token with a good signature says.
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

/// What the token is bound to.
#[derive(Debug, Deserialize)]
struct KubernetesClaims {
    #[serde(default)]
    namespace: String,
    pod: Option<PodReference>,
}

/// One pod, which no later pod of the same name is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct PodReference {
    /// `metadata.name`
    pub(super) name: SmolStr,
    /// `metadata.uid`
    pub(super) uid: SmolStr,
}

#[derive(Debug, Deserialize, Default)]
#[serde(untagged)]
enum Audience {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

// === impl KeySetVerifier ===

impl KeySetVerifier {
    /// Reads a JWKS or a PEM public key; takes tokens of `issuer` for any of `audiences` as identities of `trust_domain`.
    pub fn open(path: &Path, issuer: &str, audiences: &[String], trust_domain: &str) -> Result<Self, KeySetError> {
        Ok(Self { keys: KeySet::open(path)?, issuer: issuer.into(), audiences: audiences.to_vec(), trust_domain: trust_domain.into() })
    }

    fn check(&self, token: &str, now: Timestamp) -> Result<SpiffeId, TokenError> {
        let claims = self.keys.verified_claims(token)?;
        claims.check_times(now)?;
        claims.check_issuer(&self.issuer)?;
        claims.check_audience(&self.audiences)?;
        claims.identity(&self.trust_domain)
    }
}

impl TokenVerifier for KeySetVerifier {
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<SpiffeId, TokenError>> {
        Box::pin(std::future::ready(self.check(token, now)))
    }
}

// === impl Claims ===

impl Claims {
    /// Not expired, and valid already.
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

    /// By this issuer.
    pub(super) fn check_issuer(&self, issuer: &str) -> Result<(), TokenError> {
        if self.iss == issuer { Ok(()) } else { Err(TokenError::Issuer(self.iss.clone())) }
    }

    /// For one of these.
    pub(super) fn check_audience(&self, accepted: &[String]) -> Result<(), TokenError> {
        let audiences = match &self.aud {
            Audience::None => &[],
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Several(several) => several.as_slice(),
        };
        match audiences.iter().any(|audience| accepted.contains(audience)) {
            true => Ok(()),
            false => Err(TokenError::Audience(audiences.to_vec())),
        }
    }

    /// Whose it is.
    pub(super) fn identity(&self, trust_domain: &str) -> Result<SpiffeId, TokenError> {
        identity_of(&self.sub, trust_domain)
    }

    /// The pod that it is bound to, in the namespace that it names.
    pub(super) fn pod(&self) -> Option<(&str, &PodReference)> {
        let bound = self.kubernetes.as_ref()?;
        Some((bound.namespace.as_str(), bound.pod.as_ref().filter(|pod| !pod.uid.is_empty())?))
    }
}

/// `system:serviceaccount:<namespace>:<name>` as an identity.
pub fn identity_of(subject: &str, trust_domain: &str) -> Result<SpiffeId, TokenError> {
    let account = subject.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) if is_plain_name(namespace) && is_plain_name(name) => {
            Ok(SpiffeId { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: name.into() })
        }
        _ => Err(TokenError::Subject(subject.to_owned())),
    }
}

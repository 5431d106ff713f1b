//! Tokens of an issuer whose public keys are in a file: the folder source's [`local_issuer`](crate::identity::local_issuer).
//!
//! In Kubernetes a signature alone would accept tokens of pods that are gone: see [`kubernetes`](super::kubernetes).

use std::path::Path;

use futures::future::BoxFuture;
use jiff::Timestamp;
use smol_str::SmolStr;

use crate::identity::{
    key_set::{KeySet, KeySetError},
    proof::{Proof, Proven},
    token::{TokenError, TokenVerifier},
};

/// Verifies the tokens of one issuer by its public keys.
pub struct KeySetVerifier {
    keys: KeySet,
    issuer: String,
    audiences: Vec<String>,
    trust_domain: SmolStr,
}

impl KeySetVerifier {
    /// Reads a JWKS or a PEM public key. Tokens of `issuer` for any of `audiences` prove identities of `trust_domain`.
    ///
    /// # Errors
    /// When the file cannot be read or holds a key that cannot be used.
    pub fn open(path: &Path, issuer: &str, audiences: &[String], trust_domain: &str) -> Result<Self, KeySetError> {
        Ok(Self { keys: KeySet::open(path)?, issuer: issuer.into(), audiences: audiences.to_vec(), trust_domain: trust_domain.into() })
    }

    fn check(&self, token: &str, now: Timestamp) -> Result<Proven, TokenError> {
        let claims = self.keys.verified_claims(token)?;
        claims.check_times(now)?;
        claims.check_issuer(&self.issuer)?;
        claims.check_audience(&self.audiences)?;
        Ok(Proven::new(claims.identity(&self.trust_domain)?, Proof::LocalToken))
    }
}

impl TokenVerifier for KeySetVerifier {
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Proven, TokenError>> {
        Box::pin(std::future::ready(self.check(token, now)))
    }
}

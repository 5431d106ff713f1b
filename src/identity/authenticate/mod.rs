//! Who is calling on port 15012: proven by a client certificate, or else by a token (contract §2.6).

mod fetched_keys;
mod key_set;
pub mod kubernetes;
mod open_id;

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use jiff::Timestamp;
use smol_str::SmolStr;
use tracing::debug;

pub use self::{
    key_set::KeySetVerifier,
    open_id::{FetchKeys, JwtRule, JwtRuleError, OpenIdTokens},
};
pub use super::token::TokenVerifier;
use super::{
    Clock,
    ca::CaHandle,
    certificate::Certificate,
    proof::{Proof, Proven},
    token::TokenError,
};
use crate::mesh::model::SpiffeId;

/// A client certificate whose chain was verified in the TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    identity: Option<SpiffeId>,
    not_after: Timestamp,
    issuer_der: Vec<u8>,
    serial_der: Vec<u8>,
}

/// Resolves the caller of each request on the TLS port.
pub struct Authenticator {
    trust_domain: SmolStr,
    verifiers: Vec<Arc<dyn TokenVerifier>>,
    clock: Clock,
    ca: Option<Arc<CaHandle>>,
}

/// Why a caller is not known. The text is for logs; clients are told only that they are unauthenticated.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The caller presented nothing.
    #[error("neither a client certificate nor a token")]
    NoCredentials,
    /// The header is not `Bearer <token>` or `Istio <token>`.
    #[error("the authorization header is neither Bearer nor Istio")]
    Header,
    /// The certificate ran out while the connection was open.
    #[error("the client certificate expired at {0}")]
    CertificateExpired(Timestamp),
    /// The certificate was revoked while the connection was open.
    #[error("the client certificate was revoked")]
    CertificateRevoked,
    /// The certificate does not carry exactly one SPIFFE id of our trust domain.
    #[error("the client certificate has no SPIFFE id in trust domain {0}, and there is no token")]
    CertificateIdentity(SmolStr),
    /// No verifier takes tokens.
    #[error("a token came, but no token issuer is configured")]
    NoVerifier,
    /// No verifier accepted the token: what the last one found, or that one could not decide.
    #[error("token: {0}")]
    Token(TokenError),
}

// === impl PeerCertificate ===

impl PeerCertificate {
    /// Reads a verified leaf; `None` if it cannot be read.
    pub fn from_verified_der(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let Certificate { not_after, issuer_der, serial_der, .. } = &certificate;
        Some(Self {
            identity: certificate.spiffe_id(),
            not_after: *not_after,
            issuer_der: issuer_der.clone(),
            serial_der: serial_der.clone(),
        })
    }
}

// === impl AuthenticationError ===

impl AuthenticationError {
    /// Returns whether trying again may help: nothing is wrong with what was presented, but whoever decides cannot be asked now.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Token(TokenError::Unavailable(_)))
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Returns an authenticator that accepts client certificates of `trust_domain`, and tokens that one of `verifiers` accepts.
    pub fn new(trust_domain: impl Into<SmolStr>, verifiers: Vec<Arc<dyn TokenVerifier>>, clock: Clock) -> Self {
        Self { trust_domain: trust_domain.into(), verifiers, clock, ca: None }
    }

    /// Refuses certificates from now on that the lists of this CA revoke, also on connections that were open before.
    pub fn with_revocation(self, ca: Arc<CaHandle>) -> Self {
        Self { ca: Some(ca), ..self }
    }

    /// Returns the caller of one request.
    ///
    /// # Errors
    /// When it proves nothing.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: Option<&PeerCertificate>) -> Result<Proven, AuthenticationError> {
        let now = (self.clock)();
        let certificate = peer.map(|peer| self.identity_of(peer, now));
        match (certificate, bearer_token(headers)?) {
            (Some(Ok(identity)), _) => Ok(Proven { identity, proof: Proof::Certificate, pod: None }),
            (Some(Err(error @ AuthenticationError::CertificateRevoked)), _) => Err(error),
            (_, Some(token)) => self.verify_token(token, now).await,
            (Some(Err(error)), None) => Err(error),
            (None, None) => Err(AuthenticationError::NoCredentials),
        }
    }

    fn identity_of(&self, peer: &PeerCertificate, now: Timestamp) -> Result<SpiffeId, AuthenticationError> {
        if now > peer.not_after {
            return Err(AuthenticationError::CertificateExpired(peer.not_after));
        }
        let ca = self.ca.as_ref().map(|ca| ca.current());
        if ca.is_some_and(|ca| ca.revocation().is_some_and(|lists| lists.revokes(&peer.issuer_der, &peer.serial_der))) {
            return Err(AuthenticationError::CertificateRevoked);
        }
        let identity = peer.identity.clone().filter(|identity| identity.trust_domain == self.trust_domain);
        identity.ok_or_else(|| AuthenticationError::CertificateIdentity(self.trust_domain.clone()))
    }

    async fn verify_token(&self, token: &str, now: Timestamp) -> Result<Proven, AuthenticationError> {
        let mut last = AuthenticationError::NoVerifier;
        for verifier in &self.verifiers {
            match verifier.verify(token, now).await {
                Ok(proven) => return Ok(proven),
                Err(error) => {
                    debug!(%error, "a token verifier refused");
                    if !last.is_temporary() {
                        last = AuthenticationError::Token(error);
                    }
                }
            }
        }
        Err(last)
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("trust_domain", &self.trust_domain).field("verifiers", &self.verifiers.len()).finish()
    }
}

/// Returns the token of `authorization: Bearer …` or `Istio …` (contract §4.2).
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, AuthenticationError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| AuthenticationError::Header)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthenticationError::Header)?;
    match scheme {
        _ if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        "Istio" => Ok(Some(token.trim())),
        _ => Err(AuthenticationError::Header),
    }
}

//! Who is calling on port 15012: proven by a client certificate, or else by a token (contract §2.6).

mod clusters;
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
    clusters::{Clusters, RemoteClusters, is_own},
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
use crate::{mesh::model::SpiffeId, peer_text::PeerText};

/// A client certificate whose chain was verified in the TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    identity: Option<SpiffeId>,
    not_after: Timestamp,
    issuer_der: Vec<u8>,
    serial_der: Vec<u8>,
    remote_cluster: Option<SmolStr>,
}

/// Resolves the caller of each request on the TLS port.
pub struct Authenticator {
    trust_domain: SmolStr,
    verifiers: Vec<Arc<dyn TokenVerifier>>,
    clusters: Option<Clusters>,
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
    /// The caller's `clusterid` is no text.
    #[error("clusterid is no text")]
    ClusterName,
    /// Nobody knows the cluster that the caller names, or that its certificate is of.
    #[error("cluster {asked} is not known; ours is {own}, and remote ones are [{remote}]")]
    UnknownCluster {
        /// What was named.
        asked: PeerText,
        /// Our own.
        own: SmolStr,
        /// The others.
        remote: String,
    },
    /// The Secrets of remote clusters have not been read yet.
    #[error("it is not known yet which remote clusters there are")]
    ClustersUnread,
    /// The certificate is of a remote cluster, and we know none.
    #[error("the client certificate is for a caller of remote cluster {0}, and no remote clusters are known here")]
    NoClusters(PeerText),
    /// No verifier accepted the token: what the last one found, or that one could not decide.
    #[error("token: {0}")]
    Token(TokenError),
}

// === impl PeerCertificate ===

impl PeerCertificate {
    /// Reads a verified leaf; `None` if it cannot be read.
    pub fn from_verified_der(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let Certificate { not_after, issuer_der, serial_der, remote_cluster, .. } = &certificate;
        Some(Self {
            identity: certificate.spiffe_id(),
            not_after: *not_after,
            issuer_der: issuer_der.clone(),
            serial_der: serial_der.clone(),
            remote_cluster: remote_cluster.clone(),
        })
    }
}

// === impl AuthenticationError ===

impl AuthenticationError {
    /// Returns whether trying again may help: nothing is wrong with what was presented, but whoever decides cannot be asked now.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Token(TokenError::Unavailable(_)) | Self::ClustersUnread)
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Returns an authenticator that accepts client certificates of `trust_domain`, and tokens that one of `verifiers` accepts.
    pub fn new(trust_domain: impl Into<SmolStr>, verifiers: Vec<Arc<dyn TokenVerifier>>, clock: Clock) -> Self {
        Self { trust_domain: trust_domain.into(), verifiers, clusters: None, clock, ca: None }
    }

    /// Takes tokens of these clusters, too, when no other verifier accepts them.
    pub fn with_clusters(self, clusters: Clusters) -> Self {
        Self { clusters: Some(clusters), ..self }
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
        let certificate = peer.map(|peer| self.holder_of(peer, now));
        match (certificate, bearer_token(headers)?) {
            (Some(Ok(proven)), _) => Ok(proven),
            (Some(Err(error @ AuthenticationError::CertificateRevoked)), _) => Err(error),
            (_, Some(token)) => self.verify_token(headers, token, now).await,
            (Some(Err(error)), None) => Err(error),
            (None, None) => Err(AuthenticationError::NoCredentials),
        }
    }

    fn holder_of(&self, peer: &PeerCertificate, now: Timestamp) -> Result<Proven, AuthenticationError> {
        if now > peer.not_after {
            return Err(AuthenticationError::CertificateExpired(peer.not_after));
        }
        let ca = self.ca.as_ref().map(|ca| ca.current());
        if ca.is_some_and(|ca| ca.revocation().is_some_and(|lists| lists.revokes(&peer.issuer_der, &peer.serial_der))) {
            return Err(AuthenticationError::CertificateRevoked);
        }
        let identity = peer.identity.clone().filter(|identity| identity.trust_domain == self.trust_domain);
        let identity = identity.ok_or_else(|| AuthenticationError::CertificateIdentity(self.trust_domain.clone()))?;
        match (&peer.remote_cluster, &self.clusters) {
            (None, _) => {}
            (Some(cluster), Some(clusters)) => clusters.check(cluster)?,
            (Some(cluster), None) => return Err(AuthenticationError::NoClusters(PeerText::new(cluster))),
        }
        Ok(Proven { remote_cluster: peer.remote_cluster.clone(), ..Proven::new(identity, Proof::Certificate) })
    }

    async fn verify_token(&self, headers: &HeaderMap, token: &str, now: Timestamp) -> Result<Proven, AuthenticationError> {
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
        // In istiod's order: a cluster is asked last.
        let Some(clusters) = &self.clusters else { return Err(last) };
        clusters.verify(headers, token, now).await.map_err(|error| if last.is_temporary() { last } else { error })
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

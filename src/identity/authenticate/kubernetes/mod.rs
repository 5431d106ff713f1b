//! Service-account tokens of the cluster (contract §4.2), verified without the API server as far as that is safe.
//!
//! The cluster's keys prove who made a token, and its claims say until when it is valid. They cannot prove that the pod
//! to which it is bound still exists; the watched [`World`] can, by the pod's UID. So a token of a known pod costs no
//! request and needs no API server. TokenReview decides everything else: a pod that the world does not show (it is gone,
//! or too new), a token bound to no pod, a token of a second issuer of the cluster, and every token while the keys
//! cannot be fetched. A token that its key, times or audience rule out is refused before: nobody can make us send requests
//! by forging tokens.
//!
//! Answers of TokenReview are not cached: a cached one could outlive its pod, and few tokens need one.

mod access;
mod issuer;
mod metrics;
mod review;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use access::AccessReviews;
pub use metrics::TokenMetrics;

use self::{
    issuer::{ClusterIssuer, IssuerKeys},
    review::{Reviewed, TokenReviews},
};
use super::TokenVerifier;
use crate::{
    identity::{
        Clock,
        proof::{Proof, Proven},
        token::{Claims, TokenError, identity_of},
    },
    mesh::{
        model::{SpiffeId, WorkloadKey},
        world::World,
    },
    peer_text::PeerText,
};

/// The audience of tokens, unless another is configured (`TOKEN_AUDIENCES`).
pub const DEFAULT_AUDIENCE: &str = "istio-ca";

/// How the cluster's tokens are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The audiences; a token must be for one of them (`TOKEN_AUDIENCES`).
    pub audiences: Vec<String>,
    /// The cluster whose tokens these are.
    pub cluster: SmolStr,
    /// The trust domain of the identities.
    pub trust_domain: SmolStr,
    /// How old the keys may be before they are fetched again.
    pub keys_max_age: Duration,
    /// The shortest time between two fetches, however many unknown key ids come.
    pub keys_min_interval: Duration,
    /// How many TokenReviews may be under way.
    pub concurrent_reviews: usize,
    /// How long one request to the API server may take, including the wait for its turn.
    pub timeout: Duration,
}

/// Verifies the cluster's service-account tokens.
pub struct ClusterTokens {
    settings: Settings,
    issuer: ClusterIssuer,
    reviews: TokenReviews,
    worlds: watch::Receiver<Arc<World>>,
    metrics: TokenMetrics,
}

// === impl Settings ===

impl Settings {
    /// Returns the settings for tokens of cluster `Kubernetes` for `istio-ca`, which prove identities of `trust_domain`.
    pub fn new(trust_domain: &str) -> Self {
        Self {
            audiences: vec![DEFAULT_AUDIENCE.into()],
            cluster: "Kubernetes".into(),
            trust_domain: trust_domain.into(),
            keys_max_age: Duration::from_secs(300),
            keys_min_interval: Duration::from_secs(10),
            concurrent_reviews: 16,
            timeout: Duration::from_secs(5),
        }
    }
}

// === impl ClusterTokens ===

impl ClusterTokens {
    /// Returns a verifier that asks the API server of `client`, and takes from `worlds` which pods exist.
    pub fn new(client: Client, worlds: watch::Receiver<Arc<World>>, settings: Settings, metrics: TokenMetrics) -> Arc<Self> {
        let issuer = ClusterIssuer::new(client.clone(), &settings, metrics.clone());
        let reviews = TokenReviews::new(client, &settings, metrics.clone());
        Arc::new(Self { settings, issuer, reviews, worlds, metrics })
    }

    /// Runs until `shutdown`: fetches the keys, and again when they are old.
    pub async fn keep_keys(self: Arc<Self>, clock: Clock, shutdown: CancellationToken) {
        loop {
            let pause = match self.issuer.refresh(None, clock()).await {
                Ok(_) => self.settings.keys_max_age,
                Err(_) => self.settings.keys_min_interval,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn decide(&self, token: &str, now: Timestamp) -> Result<Proven, TokenError> {
        let Ok(issuer) = self.issuer.current(now).await else {
            return self.review(token, None).await;
        };
        let (issuer, claims) = self.verified(issuer, token, now).await?;
        claims.check_times(now)?;
        claims.check_audience(&self.settings.audiences)?;
        let identity = claims.identity(&self.settings.trust_domain)?;
        if claims.check_issuer(&issuer.name).is_ok() && is_of_a_known_pod(&claims, &identity, &self.settings.cluster, &self.worlds.borrow())
        {
            let pod = claims.pod().map(|(_, pod)| pod.clone());
            return Ok(Proven { pod, ..Proven::new(identity, Proof::PodToken) });
        }
        self.review(token, Some(&identity)).await
    }

    /// Verifies the signature. An unknown key id may belong to a new key: then the keys are fetched, and tried once more.
    async fn verified(&self, known: Arc<IssuerKeys>, token: &str, now: Timestamp) -> Result<(Arc<IssuerKeys>, Claims), TokenError> {
        match known.keys.verified_claims(token) {
            Err(TokenError::UnknownKey) => {
                let newer = self.issuer.refresh(Some(&known), now).await?;
                let claims = newer.keys.verified_claims(token)?;
                Ok((newer, claims))
            }
            claims => Ok((known, claims?)),
        }
    }

    async fn review(&self, token: &str, claimed: Option<&SpiffeId>) -> Result<Proven, TokenError> {
        let Reviewed { user, pod } = self.reviews.review(token).await?;
        let identity = identity_of(&user, &self.settings.trust_domain)?;
        match claimed.is_none_or(|claimed| *claimed == identity) {
            true => Ok(Proven { pod, ..Proven::new(identity, Proof::TokenReview) }),
            false => Err(TokenError::Subject(PeerText::new(&user))),
        }
    }
}

impl TokenVerifier for ClusterTokens {
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Proven, TokenError>> {
        Box::pin(async move {
            let decided = self.decide(token, now).await;
            self.metrics.count_decision(decided.as_ref().map(|proven| proven.proof));
            decided
        })
    }
}

impl std::fmt::Debug for ClusterTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterTokens").field("settings", &self.settings).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Returns whether the world shows the pod, by its UID, to which the token is bound, and it runs as the token's account.
fn is_of_a_known_pod(claims: &Claims, identity: &SpiffeId, cluster: &SmolStr, world: &World) -> bool {
    let Some((namespace, pod)) = claims.pod().filter(|(namespace, _)| *namespace == identity.namespace) else { return false };
    let key = WorkloadKey { namespace: namespace.into(), name: pod.name.clone(), cluster: cluster.clone() };
    world.workloads.get(&key).is_some_and(|workload| workload.uid == pod.uid && workload.service_account == identity.service_account)
}

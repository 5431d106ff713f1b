//! Service-account tokens of the cluster (contract §4.2), decided here as far as that is safe.
//!
//! The cluster's own keys prove who made a token, its claims until when it is good. What they cannot prove is that the
//! pod it is bound to still exists; the watched [`World`] can, by the pod's UID. So a token of a known pod costs no
//! request and needs no API server. Everything else is for TokenReview: a pod that the world does not show (it is gone,
//! or too new), a token bound to no pod, a token of a second issuer of the cluster, and all of them as long as the keys
//! could not be had. What is refused by keys, times or audience never gets so far: nobody makes us ask by forging.
//!
//! Answers of TokenReview are not kept: a kept one could outlive its pod, and few tokens need one.

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

pub use metrics::TokenMetrics;

use self::{
    issuer::{KeysOfCluster, Known},
    review::TokenReviews,
};
use super::TokenVerifier;
use crate::{
    identity::{
        Clock,
        token::{Claims, TokenError, identity_of},
    },
    mesh::{model::SpiffeId, world::World},
};

/// Whom tokens must be for when nothing else is said (`TOKEN_AUDIENCES`).
pub const DEFAULT_AUDIENCE: &str = "istio-ca";

/// How the cluster's tokens are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A token must be for one of these (`TOKEN_AUDIENCES`).
    pub audiences: Vec<String>,
    /// Identities are of this trust domain.
    pub trust_domain: SmolStr,
    /// The keys are fetched again after this, asked for or not.
    pub keys_age: Duration,
    /// Unknown key ids make us fetch the keys at most once in this time, however many come.
    pub keys_pause: Duration,
    /// How many TokenReviews may be under way.
    pub reviews: usize,
    /// How long one request to the API server, with the wait for its turn, may take.
    pub patience: Duration,
}

/// Verifies the cluster's service-account tokens.
pub struct ClusterTokens {
    settings: Settings,
    keys: KeysOfCluster,
    reviews: TokenReviews,
    worlds: watch::Receiver<Arc<World>>,
    metrics: TokenMetrics,
}

// === impl Settings ===

impl Settings {
    /// Tokens for `istio-ca`, as identities of `trust_domain`.
    pub fn new(trust_domain: &str) -> Self {
        Self {
            audiences: vec![DEFAULT_AUDIENCE.into()],
            trust_domain: trust_domain.into(),
            keys_age: Duration::from_secs(300),
            keys_pause: Duration::from_secs(10),
            reviews: 16,
            patience: Duration::from_secs(5),
        }
    }
}

// === impl ClusterTokens ===

impl ClusterTokens {
    /// Asks the API server of `client`, and believes `worlds` about which pods exist.
    pub fn new(client: Client, worlds: watch::Receiver<Arc<World>>, settings: Settings, metrics: TokenMetrics) -> Arc<Self> {
        let keys = KeysOfCluster::new(client.clone(), settings.keys_pause, settings.patience, metrics.clone());
        let reviews = TokenReviews::new(client, &settings, metrics.clone());
        Arc::new(Self { settings, keys, reviews, worlds, metrics })
    }

    /// Runs until `shutdown`: fetches the keys, and fetches them again when they are old.
    pub async fn keep_keys(self: Arc<Self>, clock: Clock, shutdown: CancellationToken) {
        loop {
            let pause = match self.keys.refresh(None, clock()).await {
                Ok(_) => self.settings.keys_age,
                Err(_) => self.settings.keys_pause,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn decide(&self, token: &str, now: Timestamp) -> Result<(SpiffeId, &'static str), TokenError> {
        let Ok(known) = self.keys.known(now).await else {
            return self.review(token, None).await;
        };
        let (known, claims) = self.verified(known, token, now).await?;
        claims.check_times(now)?;
        claims.check_audience(&self.settings.audiences)?;
        let identity = claims.identity(&self.settings.trust_domain)?;
        if claims.check_issuer(&known.issuer).is_ok() && is_of_a_known_pod(&claims, &identity, &self.worlds.borrow()) {
            return Ok((identity, "known_pod"));
        }
        self.review(token, Some(&identity)).await
    }

    /// An unknown key id may be a new key's: the keys are fetched, at most so often, and asked once more.
    async fn verified(&self, known: Arc<Known>, token: &str, now: Timestamp) -> Result<(Arc<Known>, Claims), TokenError> {
        match known.keys.verified_claims(token) {
            Err(TokenError::UnknownKey) => {
                let newer = self.keys.refresh(Some(&known), now).await?;
                let claims = newer.keys.verified_claims(token)?;
                Ok((newer, claims))
            }
            claims => Ok((known, claims?)),
        }
    }

    async fn review(&self, token: &str, claimed: Option<&SpiffeId>) -> Result<(SpiffeId, &'static str), TokenError> {
        let user = self.reviews.review(token).await?;
        let identity = identity_of(&user, &self.settings.trust_domain)?;
        match claimed.is_none_or(|claimed| *claimed == identity) {
            true => Ok((identity, "reviewed")),
            false => Err(TokenError::Subject(user)),
        }
    }
}

impl TokenVerifier for ClusterTokens {
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<SpiffeId, TokenError>> {
        Box::pin(async move {
            let decided = self.decide(token, now).await;
            self.metrics.count_decision(decided.as_ref().map(|(_, way)| *way));
            decided.map(|(identity, _)| identity)
        })
    }
}

impl std::fmt::Debug for ClusterTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterTokens").field("settings", &self.settings).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Whether the world shows the very pod (by its UID) that the token is bound to, running as the token's account.
fn is_of_a_known_pod(claims: &Claims, identity: &SpiffeId, world: &World) -> bool {
    let Some((namespace, pod)) = claims.pod().filter(|(namespace, _)| *namespace == identity.namespace) else { return false };
    let workload = world.workloads.get(&(namespace.into(), pod.name.clone()));
    workload.is_some_and(|workload| workload.uid == pod.uid && workload.service_account == identity.service_account)
}

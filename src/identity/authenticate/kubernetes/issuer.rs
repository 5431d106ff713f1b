//! The keys that the cluster signs service-account tokens with, from its API server.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::Request;
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};
use tracing::{info, warn};

use super::TokenMetrics;
use crate::identity::{key_set::KeySet, token::TokenError};

/// Not the document's `jwks_uri`: that may lead out of the cluster, this path is the API server's own.
const KEYS_PATH: &str = "/openid/v1/jwks";
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// What the API server said last.
#[derive(Debug)]
pub(super) struct Known {
    /// `iss` of its tokens.
    pub(super) issuer: String,
    /// The public halves of its keys.
    pub(super) keys: KeySet,
}

/// Fetches and keeps them. What was fetched stays good when the API server is away.
pub(super) struct KeysOfCluster {
    client: Client,
    known: ArcSwapOption<Known>,
    last: Mutex<Option<Attempt>>,
    pause: Duration,
    patience: Duration,
    metrics: TokenMetrics,
}

struct Attempt {
    at: Timestamp,
    failure: Option<String>,
}

impl Attempt {
    /// A clock that was set back does not make the pause longer.
    fn is_within(&self, pause: Duration, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at);
        !passed.is_negative() && passed.unsigned_abs() < pause
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

// === impl KeysOfCluster ===

impl KeysOfCluster {
    /// Knows none yet.
    pub(super) fn new(client: Client, pause: Duration, patience: Duration, metrics: TokenMetrics) -> Self {
        Self { client, known: ArcSwapOption::empty(), last: Mutex::new(None), pause, patience, metrics }
    }

    /// The keys, fetched if there are none yet.
    pub(super) async fn known(&self, now: Timestamp) -> Result<Arc<Known>, TokenError> {
        match self.known.load_full() {
            Some(known) => Ok(known),
            None => self.refresh(None, now).await,
        }
    }

    /// Newer keys than `seen`, which did not do: those that another caller has fetched meanwhile, or fetched now.
    ///
    /// One fetch at a time, and none in the pause after the last: then what was found last holds. A failed fetch is
    /// [`TokenError::Unavailable`], one that brought nothing new [`TokenError::UnknownKey`].
    pub(super) async fn refresh(&self, seen: Option<&Arc<Known>>, now: Timestamp) -> Result<Arc<Known>, TokenError> {
        let mut last = self.last.lock().await;
        let newer = self.known.load_full().filter(|known| seen.is_none_or(|seen| !Arc::ptr_eq(seen, known)));
        if let Some(attempt) = last.as_ref().filter(|attempt| attempt.is_within(self.pause, now)) {
            return match (newer, &attempt.failure) {
                (Some(newer), _) => Ok(newer),
                (None, Some(failure)) => Err(TokenError::Unavailable(failure.clone())),
                (None, None) => Err(TokenError::UnknownKey),
            };
        }
        if let (Some(newer), Some(_)) = (newer, seen) {
            return Ok(newer);
        }
        let fetched = timeout(self.patience, self.fetch()).await.unwrap_or_else(|_| Err("no answer in time".into()));
        self.metrics.count_fetch(fetched.is_ok());
        let failure = fetched.as_ref().err().cloned();
        *last = Some(Attempt { at: now, failure });
        match fetched {
            Ok(known) => Ok(self.keep(known)),
            Err(reason) => {
                warn!(%reason, kept = self.known.load().is_some(), "the cluster's token keys cannot be fetched");
                Err(TokenError::Unavailable(reason))
            }
        }
    }

    fn keep(&self, known: Known) -> Arc<Known> {
        let known = Arc::new(known);
        if self.known.swap(Some(Arc::clone(&known))).is_none_or(|old| old.issuer != known.issuer) {
            info!(issuer = known.issuer, keys = ?known.keys, "tokens of the cluster's issuer are verified by its keys");
        }
        known
    }

    async fn fetch(&self) -> Result<Known, String> {
        let discovery: Discovery =
            serde_json::from_str(&self.get(DISCOVERY_PATH).await?).map_err(|error| format!("{DISCOVERY_PATH}: {error}"))?;
        let keys = KeySet::from_served(&self.get(KEYS_PATH).await?, KEYS_PATH).map_err(|error| error.to_string())?;
        Ok(Known { issuer: discovery.issuer, keys })
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| format!("{path}: {error}"))?;
        self.client.request_text(request).await.map_err(|error| format!("{path}: {error}"))
    }
}

impl std::fmt::Debug for KeysOfCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeysOfCluster").field(&self.known.load()).finish()
    }
}

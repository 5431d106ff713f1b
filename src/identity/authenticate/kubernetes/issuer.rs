//! The keys with which the cluster signs service-account tokens, from its API server.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::Request;
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};
use tracing::{info, warn};

use super::{Settings, TokenMetrics};
use crate::identity::{key_set::KeySet, token::TokenError};

/// The API server's own path for its keys, and not the document's `jwks_uri`, which may lead out of the cluster.
const KEYS_PATH: &str = "/openid/v1/jwks";
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// The issuer of the cluster's tokens, as the API server described it last.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    /// Its name: `iss` of its tokens.
    pub(super) name: String,
    /// The public halves of its keys.
    pub(super) keys: KeySet,
}

/// Fetches the issuer's keys and keeps them. They stay valid while the API server is away.
pub(super) struct ClusterIssuer {
    client: Client,
    current: ArcSwapOption<IssuerKeys>,
    last: Mutex<Option<Attempt>>,
    min_interval: Duration,
    timeout: Duration,
    metrics: TokenMetrics,
}

struct Attempt {
    at: Timestamp,
    failure: Option<String>,
}

impl Attempt {
    /// Returns whether the attempt was less than `interval` ago. A clock that was set back does not make the interval longer.
    fn is_within(&self, interval: Duration, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at);
        !passed.is_negative() && passed.unsigned_abs() < interval
    }
}

#[derive(Deserialize)]
struct OpenIdConfiguration {
    issuer: String,
}

// === impl ClusterIssuer ===

impl ClusterIssuer {
    /// Returns an issuer whose keys are not known yet.
    pub(super) fn new(client: Client, settings: &Settings, metrics: TokenMetrics) -> Self {
        let (min_interval, timeout) = (settings.keys_min_interval, settings.timeout);
        Self { client, current: ArcSwapOption::empty(), last: Mutex::new(None), min_interval, timeout, metrics }
    }

    /// Returns the keys; fetches them if there are none yet.
    pub(super) async fn current(&self, now: Timestamp) -> Result<Arc<IssuerKeys>, TokenError> {
        match self.current.load_full() {
            Some(keys) => Ok(keys),
            None => self.refresh(None, now).await,
        }
    }

    /// Returns newer keys than `old`, which lack a key: those that another caller has fetched meanwhile, or else fetches them.
    ///
    /// There is one fetch at a time, and none in the interval after the last, whose result holds until then. A failed fetch is
    /// [`TokenError::Unavailable`], one that brought nothing new [`TokenError::UnknownKey`].
    pub(super) async fn refresh(&self, old: Option<&Arc<IssuerKeys>>, now: Timestamp) -> Result<Arc<IssuerKeys>, TokenError> {
        let mut last = self.last.lock().await;
        let newer = self.current.load_full().filter(|current| old.is_none_or(|old| !Arc::ptr_eq(old, current)));
        if let Some(attempt) = last.as_ref().filter(|attempt| attempt.is_within(self.min_interval, now)) {
            return match (newer, &attempt.failure) {
                (Some(newer), _) => Ok(newer),
                (None, Some(failure)) => Err(TokenError::Unavailable(failure.clone())),
                (None, None) => Err(TokenError::UnknownKey),
            };
        }
        if let (Some(newer), Some(_)) = (newer, old) {
            return Ok(newer);
        }
        let fetched = timeout(self.timeout, self.fetch()).await.unwrap_or_else(|_| Err("no answer in time".into()));
        self.metrics.count_fetch(fetched.is_ok());
        let failure = fetched.as_ref().err().cloned();
        *last = Some(Attempt { at: now, failure });
        match fetched {
            Ok(keys) => Ok(self.keep(keys)),
            Err(reason) => {
                warn!(%reason, kept = self.current.load().is_some(), "the cluster's token keys cannot be fetched");
                Err(TokenError::Unavailable(reason))
            }
        }
    }

    fn keep(&self, fetched: IssuerKeys) -> Arc<IssuerKeys> {
        let fetched = Arc::new(fetched);
        if self.current.swap(Some(Arc::clone(&fetched))).is_none_or(|old| old.name != fetched.name) {
            info!(issuer = fetched.name, keys = ?fetched.keys, "tokens of the cluster's issuer are verified by its keys");
        }
        fetched
    }

    async fn fetch(&self) -> Result<IssuerKeys, String> {
        let discovery: OpenIdConfiguration =
            serde_json::from_str(&self.get(DISCOVERY_PATH).await?).map_err(|error| format!("{DISCOVERY_PATH}: {error}"))?;
        let keys = KeySet::from_served(&self.get(KEYS_PATH).await?, KEYS_PATH).map_err(|error| error.to_string())?;
        Ok(IssuerKeys { name: discovery.issuer, keys })
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| format!("{path}: {error}"))?;
        self.client.request_text(request).await.map_err(|error| format!("{path}: {error}"))
    }
}

impl std::fmt::Debug for ClusterIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClusterIssuer").field(&self.current.load()).finish()
    }
}

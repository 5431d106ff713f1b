//! The keys with which the cluster signs service-account tokens, from its API server.

use std::{sync::Arc, time::Duration};

use http::Request;
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use smol_str::SmolStr;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Settings, TokenMetrics};
use crate::{
    identity::{authenticate::fetched_keys::FetchedKeys, key_set::KeySet, token::TokenError},
    peer_text::PeerText,
};

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
    keys: FetchedKeys<IssuerKeys>,
    cluster: SmolStr,
    timeout: Duration,
    metrics: TokenMetrics,
}

#[derive(Deserialize)]
struct OpenIdConfiguration {
    issuer: String,
}

// === impl ClusterIssuer ===

impl ClusterIssuer {
    /// Returns an issuer whose keys are not known yet.
    pub(super) fn new(client: Client, settings: &Settings, metrics: TokenMetrics) -> Self {
        let (cluster, timeout) = (settings.cluster.clone(), settings.timeout);
        Self { client, keys: FetchedKeys::new(settings.keys_min_interval), cluster, timeout, metrics }
    }

    /// Returns the keys; fetches them if there are none yet.
    pub(super) async fn current(&self, now: Timestamp) -> Result<Arc<IssuerKeys>, TokenError> {
        match self.keys.current() {
            Some(keys) => Ok(keys),
            None => self.refresh(None, now).await,
        }
    }

    /// Returns newer keys than `old`, which lack a key.
    pub(super) async fn refresh(&self, old: Option<&Arc<IssuerKeys>>, now: Timestamp) -> Result<Arc<IssuerKeys>, TokenError> {
        self.keys.refresh(old, now, self.fetch_in_time()).await
    }

    async fn fetch_in_time(&self) -> Result<IssuerKeys, String> {
        let known = self.keys.current();
        let fetched = timeout(self.timeout, self.fetch()).await.unwrap_or_else(|_| Err("no answer in time".into()));
        // An API server's own words may be in it.
        let fetched = fetched.map_err(|reason| PeerText::new(&reason).to_string());
        self.metrics.count_fetch(fetched.is_ok());
        match &fetched {
            Ok(keys) if known.as_ref().is_none_or(|old| old.name != keys.name) => {
                let issuer = PeerText::new(&keys.name);
                info!(cluster = %self.cluster, %issuer, keys = ?keys.keys, "tokens of the cluster's issuer are verified by its keys");
            }
            Ok(_) => {}
            Err(reason) => warn!(cluster = %self.cluster, %reason, kept = known.is_some(), "the cluster's token keys cannot be fetched"),
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
        f.debug_tuple("ClusterIssuer").field(&self.keys.current()).finish()
    }
}

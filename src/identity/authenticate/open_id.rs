//! Tokens of an OpenID issuer besides the cluster's (`JWT_RULE`, contract §4.2), for machines and clusters that have one. Their
//! subjects are service accounts, as Kubernetes writes them.

use std::{str::FromStr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::Deserialize;
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{TokenVerifier, fetched_keys::FetchedKeys};
use crate::{
    api::key_set::check_url,
    identity::{
        Clock,
        key_set::KeySet,
        proof::{Proof, Proven},
        token::{Claims, TokenError},
    },
    peer_text::PeerText,
};

/// How often keys are fetched again.
const REFRESH: Duration = Duration::from_secs(300);
/// The shortest time between two fetches, however many unknown key ids come.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Fetches the key set at a URL, or the one that the OpenID configuration there names.
pub type FetchKeys = Arc<dyn Fn(String) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// `JWT_RULE`: an issuer, where its keys are, and for whom its tokens are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    issuer: String,
    #[serde(default, alias = "jwks_uri")]
    jwks_uri: String,
    #[serde(default)]
    audiences: Vec<String>,
}

/// Why a rule is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtRuleError {
    /// It is not JSON of that form.
    #[error("is not JSON as {{\"issuer\": \"https://…\", \"jwks_uri\": \"https://…\", \"audiences\": [\"istio-ca\"]}}: {0}")]
    Form(String),
    /// A URL is none, or not one that can be fetched.
    #[error("{field} {reason}")]
    Url {
        /// Its field.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// No token would ever be taken.
    #[error("audiences is empty, so that no token is taken; name one, as istio-ca")]
    Audiences,
}

/// Verifies the tokens of one issuer by keys that are fetched.
pub struct OpenIdTokens {
    rule: JwtRule,
    trust_domain: SmolStr,
    fetch: FetchKeys,
    keys: FetchedKeys<KeySet>,
}

/// What a token claims of its origin, before anything is verified.
#[derive(Deserialize)]
struct Claimed {
    #[serde(default)]
    iss: String,
}

// === impl JwtRule ===

impl FromStr for JwtRule {
    type Err = JwtRuleError;

    fn from_str(text: &str) -> Result<Self, JwtRuleError> {
        let rule: Self = serde_json::from_str(text).map_err(|error| JwtRuleError::Form(error.to_string()))?;
        let (field, url) = if rule.jwks_uri.is_empty() { ("issuer", &rule.issuer) } else { ("jwks_uri", &rule.jwks_uri) };
        check_url(url).map_err(|reason| JwtRuleError::Url { field, reason: reason.to_string() })?;
        if rule.audiences.is_empty() { Err(JwtRuleError::Audiences) } else { Ok(rule) }
    }
}

impl JwtRule {
    /// Returns where the keys are, or the document that says so.
    fn url(&self) -> String {
        match self.jwks_uri.as_str() {
            "" => format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/')),
            uri => uri.to_owned(),
        }
    }
}

// === impl OpenIdTokens ===

impl OpenIdTokens {
    /// Returns a verifier whose tokens prove identities of `trust_domain`. Keys are fetched when they are needed first.
    pub fn new(rule: JwtRule, trust_domain: &str, fetch: FetchKeys) -> Arc<Self> {
        Arc::new(Self { rule, trust_domain: trust_domain.into(), fetch, keys: FetchedKeys::new(MIN_INTERVAL) })
    }

    /// Runs until `shutdown`: fetches the keys, and again when they are old.
    pub async fn keep_keys(self: Arc<Self>, clock: Clock, shutdown: CancellationToken) {
        loop {
            let pause = match self.refresh(None, clock()).await {
                Ok(_) => REFRESH,
                Err(_) => MIN_INTERVAL,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn refresh(&self, old: Option<&Arc<KeySet>>, now: Timestamp) -> Result<Arc<KeySet>, TokenError> {
        let known = self.keys.current().is_some();
        self.keys.refresh(old, now, self.fetched(known)).await
    }

    async fn fetched(&self, known: bool) -> Result<KeySet, String> {
        let url = self.rule.url();
        let fetched = (self.fetch)(url.clone()).await.and_then(|text| KeySet::from_served(&text, &url).map_err(|error| error.to_string()));
        match &fetched {
            Ok(keys) if !known => info!(issuer = self.rule.issuer, ?keys, "tokens of this issuer are verified by its keys"),
            Ok(_) => {}
            Err(reason) => warn!(issuer = self.rule.issuer, reason, kept = known, "the issuer's keys cannot be fetched"),
        }
        fetched
    }

    async fn decide(&self, token: &str, now: Timestamp) -> Result<Proven, TokenError> {
        // Tokens of others are no reason to fetch anything.
        let claimed = claimed_issuer(token)?;
        if claimed != self.rule.issuer {
            return Err(TokenError::Issuer(PeerText::new(&claimed)));
        }
        let claims = self.verified(token, now).await?;
        claims.check_times(now)?;
        claims.check_issuer(&self.rule.issuer)?;
        claims.check_audience(&self.rule.audiences)?;
        Ok(Proven::new(claims.identity(&self.trust_domain)?, Proof::OpenId))
    }

    /// Verifies the signature. An unknown key id may belong to a new key: then the keys are fetched, and tried once more.
    async fn verified(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let known = match self.keys.current() {
            Some(keys) => keys,
            None => self.refresh(None, now).await?,
        };
        match known.verified_claims(token) {
            Err(TokenError::UnknownKey) => self.refresh(Some(&known), now).await?.verified_claims(token),
            claims => claims,
        }
    }
}

impl TokenVerifier for OpenIdTokens {
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Proven, TokenError>> {
        Box::pin(self.decide(token, now))
    }
}

impl std::fmt::Debug for OpenIdTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenIdTokens").field("rule", &self.rule).finish_non_exhaustive()
    }
}

fn claimed_issuer(token: &str) -> Result<String, TokenError> {
    let malformed = |reason: &str| TokenError::Malformed(PeerText::new(reason));
    let claims = token.split('.').nth(1).filter(|claims| claims.len() <= 16 << 10).ok_or_else(|| malformed("not three parts"))?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| malformed("not base64"))?;
    serde_json::from_slice(&claims).map(|claimed: Claimed| claimed.iss).map_err(|_| malformed("claims are not JSON"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use jiff::SignedDuration;
    use parking_lot::Mutex;

    use super::*;
    use crate::identity::local_issuer::{LocalIssuer, TokenRequest};

    const ISSUER: &str = "https://issuer.example.com";

    /// An issuer whose served keys are counted.
    struct Served {
        text: Mutex<Result<String, String>>,
        fetches: AtomicUsize,
    }

    fn verifier(issuer: &LocalIssuer) -> (Arc<OpenIdTokens>, Arc<Served>) {
        let served = Arc::new(Served { text: Mutex::new(Ok(issuer.key_set())), fetches: AtomicUsize::new(0) });
        let rule: JwtRule = format!(r#"{{"issuer": "{ISSUER}", "audiences": ["vault", "istio-ca"]}}"#).parse().unwrap();
        let fetched = Arc::clone(&served);
        let fetch: FetchKeys = Arc::new(move |url| {
            assert_eq!(url, format!("{ISSUER}/.well-known/openid-configuration"));
            fetched.fetches.fetch_add(1, SeqCst);
            let answer = fetched.text.lock().clone();
            Box::pin(async move { answer })
        });
        (OpenIdTokens::new(rule, "td", fetch), served)
    }

    fn token(issuer: &LocalIssuer, audience: &str, now: Timestamp) -> String {
        let request = TokenRequest { namespace: "vm", service_account: "till", audience, ttl: Duration::from_secs(600) };
        issuer.token(&request, now).unwrap()
    }

    #[tokio::test]
    async fn a_token_of_the_issuer_names_its_account() {
        let (issuer, now) = (LocalIssuer::generate(ISSUER).unwrap(), Timestamp::now());
        let (tokens, _) = verifier(&issuer);
        let proven = tokens.verify(&token(&issuer, "istio-ca", now), now).await.unwrap();
        assert_eq!((proven.identity.to_string().as_str(), proven.proof), ("spiffe://td/ns/vm/sa/till", Proof::OpenId));
        let refused = tokens.verify(&token(&issuer, "somebody", now), now).await.unwrap_err();
        assert!(matches!(refused, TokenError::Audience(_)), "{refused}");
        let late = tokens.verify(&token(&issuer, "istio-ca", now), now + SignedDuration::from_hours(1)).await.unwrap_err();
        assert!(matches!(late, TokenError::Expired(_)), "{late}");
        let forged = token(&LocalIssuer::generate(ISSUER).unwrap(), "istio-ca", now);
        assert_eq!(tokens.verify(&forged, now).await.unwrap_err(), TokenError::UnknownKey);
    }

    #[tokio::test]
    async fn tokens_of_others_and_forgeries_fetch_nothing() {
        let (issuer, other, now) = (LocalIssuer::generate(ISSUER).unwrap(), LocalIssuer::generate("elsewhere").unwrap(), Timestamp::now());
        let (tokens, served) = verifier(&issuer);
        for token in [token(&other, "istio-ca", now).as_str(), "", "a.b.c", "..", "x"] {
            tokens.verify(token, now).await.unwrap_err();
        }
        assert_eq!(served.fetches.load(SeqCst), 0);
        for _ in 0..20 {
            let forged = token(&LocalIssuer::generate(ISSUER).unwrap(), "istio-ca", now);
            tokens.verify(&forged, now).await.unwrap_err();
        }
        assert!(served.fetches.load(SeqCst) <= 1, "unknown keys fetch once in a while");
    }

    #[tokio::test]
    async fn keys_are_replaced_under_way_and_stay_while_the_issuer_is_away() {
        let (issuer, now) = (LocalIssuer::generate(ISSUER).unwrap(), Timestamp::now());
        let (tokens, served) = verifier(&issuer);
        *served.text.lock() = Err("away".into());
        let refused = tokens.verify(&token(&issuer, "vault", now), now).await.unwrap_err();
        assert!(matches!(refused, TokenError::Unavailable(_)), "{refused}");
        *served.text.lock() = Ok(issuer.key_set());
        let later = now + SignedDuration::from_secs(60);
        tokens.verify(&token(&issuer, "vault", now), later).await.unwrap();

        let next = LocalIssuer::generate(ISSUER).unwrap();
        *served.text.lock() = Ok(next.key_set());
        let later = later + SignedDuration::from_secs(60);
        tokens.verify(&token(&next, "vault", now), later).await.expect("a new key is fetched when it is first seen");
        *served.text.lock() = Err("away".into());
        tokens.verify(&token(&next, "vault", now), later + SignedDuration::from_secs(60)).await.expect("its keys stay");
    }

    #[test]
    fn rules_are_read_as_istiod_reads_them() {
        let snake: JwtRule = r#"{"issuer": "https://a", "jwks_uri": "https://a/keys", "audiences": ["b"]}"#.parse().unwrap();
        let camel: JwtRule = r#"{"issuer": "https://a", "jwksUri": "https://a/keys", "audiences": ["b"]}"#.parse().unwrap();
        assert_eq!((snake.url().as_str(), &snake), ("https://a/keys", &camel));
        for (text, why) in [
            ("", "is not JSON"),
            ("{}", "is not JSON"),
            (r#"{"issuer": "https://a"}"#, "audiences is empty"),
            (r#"{"issuer": "a", "audiences": ["b"]}"#, "issuer "),
            (r#"{"issuer": "a", "jwks_uri": "file:///etc/passwd", "audiences": ["b"]}"#, "jwks_uri "),
        ] {
            let error = text.parse::<JwtRule>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

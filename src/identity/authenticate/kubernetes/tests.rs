//! Against an API server in the process, which can be taken away, slowed and asked what it was asked.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed},
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use imbl::OrdMap;
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::{api::Kind, identity::local_issuer::LocalIssuer, mesh::model::Workload};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What the API server says, and what it was asked.
struct ApiServer {
    keys: Mutex<String>,
    away: AtomicBool,
    no_keys: AtomicBool,
    pods: Mutex<BTreeSet<String>>,
    fetches: AtomicUsize,
    reviews: AtomicUsize,
}

impl ApiServer {
    fn signing_with(issuer: &LocalIssuer) -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::new(issuer.key_set()),
            away: AtomicBool::new(false),
            no_keys: AtomicBool::new(false),
            pods: Mutex::default(),
            fetches: AtomicUsize::new(0),
            reviews: AtomicUsize::new(0),
        })
    }

    fn client(self: &Arc<Self>) -> Client {
        let router = Router::new()
            .route(DISCOVERY, get(|| async { Json(json!({"issuer": ISSUER, "jwks_uri": "https://elsewhere.example/keys"})) }))
            .route("/openid/v1/jwks", get(Self::serve_keys))
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(Self::serve_review))
            .layer(axum::middleware::from_fn_with_state(Arc::clone(self), Self::maybe_away))
            .with_state(Arc::clone(self));
        Client::new(router, "istio-system")
    }

    async fn maybe_away(State(server): State<Arc<Self>>, request: http::Request<Body>, next: axum::middleware::Next) -> Response {
        match server.away.load(Relaxed) {
            true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            false => next.run(request).await,
        }
    }

    async fn serve_keys(State(server): State<Arc<Self>>) -> Response {
        server.fetches.fetch_add(1, Relaxed);
        if server.no_keys.load(Relaxed) {
            return StatusCode::FORBIDDEN.into_response();
        }
        server.keys.lock().clone().into_response()
    }

    /// Answers as the real one does for a token whose signature and times are valid: the bound pod must exist.
    async fn serve_review(State(server): State<Arc<Self>>, Json(review): Json<Value>) -> Json<Value> {
        server.reviews.fetch_add(1, Relaxed);
        let claims = claims_of(review["spec"]["token"].as_str().unwrap());
        let uid = claims["kubernetes.io"]["pod"]["uid"].as_str();
        let exists = uid.is_none_or(|uid| server.pods.lock().contains(uid));
        let status = match exists && claims["iss"] != "https://evil.example" {
            true => json!({
                "authenticated": true,
                "audiences": ["istio-ca"],
                "user": {"username": claims["sub"], "groups": ["system:serviceaccounts", "system:authenticated"]},
            }),
            false => json!({"user": {}, "error": "service account token has been invalidated"}),
        };
        let mut answer = review;
        answer["status"] = status;
        Json(answer)
    }
}

const DISCOVERY: &str = "/.well-known/openid-configuration";

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "sub": "system:serviceaccount:shop:reviews",
        "aud": ["istio-ca"],
        "iat": now().as_second(),
        "nbf": now().as_second(),
        "exp": now().as_second() + 3600,
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "reviews-1", "uid": "uid-1"},
            "serviceaccount": {"name": "reviews", "uid": "account"},
        },
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(path).unwrap() = value;
    claims
}

fn key_id(issuer: &LocalIssuer) -> String {
    let set: Value = serde_json::from_str(&issuer.key_set()).unwrap();
    set["keys"][0]["kid"].as_str().unwrap().to_owned()
}

fn signed(issuer: &LocalIssuer, claims: &Value) -> String {
    signed_as(issuer, &key_id(issuer), claims)
}

fn signed_as(issuer: &LocalIssuer, key_id: &str, claims: &Value) -> String {
    let header = Header { kid: Some(key_id.into()), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&issuer.key().to_der())).unwrap()
}

fn world(pods: &[(&str, &str, &str)]) -> Arc<World> {
    let workloads = pods.iter().map(|(name, uid, account)| {
        let workload = Workload {
            name: (*name).into(),
            namespace: "shop".into(),
            labels: Arc::default(),
            annotations: Arc::default(),
            service_account: (*account).into(),
            ips: Arc::default(),
            node: SmolStr::default(),
            locality: Arc::default(),
            uid: (*uid).into(),
            ports: Arc::default(),
            kind: Kind::Pod,
            cluster: "Kubernetes".into(),
            generation: 0,
        };
        (workload.key(), Arc::new(workload))
    });
    Arc::new(World { workloads: workloads.collect::<OrdMap<_, _>>(), ..World::default() })
}

struct Stage {
    issuer: LocalIssuer,
    server: Arc<ApiServer>,
    worlds: watch::Sender<Arc<World>>,
    tokens: Arc<ClusterTokens>,
    metrics: TokenMetrics,
    passed: AtomicI64,
}

impl Stage {
    fn new() -> Self {
        let issuer = LocalIssuer::generate(ISSUER).unwrap();
        let server = ApiServer::signing_with(&issuer);
        let (worlds, seen) = watch::channel(world(&[("reviews-1", "uid-1", "reviews")]));
        let metrics = TokenMetrics::default();
        let tokens = ClusterTokens::new(server.client(), seen, Settings::new("cluster.local"), metrics.clone());
        Self { issuer, server, worlds, tokens, metrics, passed: AtomicI64::new(0) }
    }

    async fn verify(&self, token: &str) -> Result<String, TokenError> {
        let now = now() + SignedDuration::from_secs(self.passed.load(Relaxed));
        self.tokens.verify(token, now).await.map(|proven| proven.identity.to_string())
    }

    fn pass(&self, seconds: i64) {
        self.passed.fetch_add(seconds, Relaxed);
    }

    async fn verify_claims(&self, claims: &Value) -> Result<String, TokenError> {
        self.verify(&signed(&self.issuer, claims)).await
    }

    fn asked(&self) -> (usize, usize) {
        (self.server.fetches.load(Relaxed), self.server.reviews.load(Relaxed))
    }
}

const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";

#[tokio::test]
async fn a_token_of_a_known_pod_needs_no_api_server() {
    let stage = Stage::new();
    assert_eq!(stage.verify_claims(&claims()).await.unwrap(), REVIEWS);
    stage.server.away.store(true, Relaxed);
    assert_eq!(stage.verify_claims(&claims()).await.unwrap(), REVIEWS);
    assert_eq!(stage.asked(), (1, 0), "one fetch of the keys, no review");
    assert_eq!(stage.metrics.decisions("known_pod"), 2);
}

#[tokio::test]
async fn the_unexpired_token_of_a_deleted_pod_is_refused() {
    let stage = Stage::new();
    assert_eq!(stage.verify_claims(&claims()).await.unwrap(), REVIEWS);
    // A StatefulSet's next pod has the same name and account, and another UID.
    stage.worlds.send_replace(world(&[("reviews-1", "uid-2", "reviews")]));
    let refused = stage.verify_claims(&claims()).await.unwrap_err();
    assert!(matches!(refused, TokenError::Review(_)), "{refused}");
    stage.worlds.send_replace(world(&[]));
    assert!(matches!(stage.verify_claims(&claims()).await.unwrap_err(), TokenError::Review(_)));
    assert_eq!(stage.asked(), (1, 2));
}

#[tokio::test]
async fn a_pod_that_the_world_does_not_show_yet_is_reviewed() {
    let stage = Stage::new();
    stage.worlds.send_replace(world(&[]));
    stage.server.pods.lock().insert("uid-1".into());
    assert_eq!(stage.verify_claims(&claims()).await.unwrap(), REVIEWS);
    assert_eq!(stage.metrics.decisions("reviewed"), 1);
    stage.server.away.store(true, Relaxed);
    let refused = stage.verify_claims(&claims()).await.unwrap_err();
    assert!(matches!(refused, TokenError::Unavailable(_)), "cannot be decided now: {refused}");
}

#[tokio::test]
async fn a_pod_of_another_account_or_namespace_does_not_vouch() {
    let stage = Stage::new();
    stage.worlds.send_replace(world(&[("reviews-1", "uid-1", "default")]));
    assert!(stage.verify_claims(&claims()).await.is_err(), "the pod runs as another account");
    stage.worlds.send_replace(world(&[("reviews-1", "uid-1", "reviews")]));
    assert!(stage.verify_claims(&with("/kubernetes.io/namespace", json!("bank"))).await.is_err());
    assert!(stage.verify_claims(&with("/kubernetes.io/pod/uid", json!(""))).await.is_err(), "no UID names no pod");
    assert_eq!(stage.asked().1, 3);
}

#[tokio::test]
async fn tokens_bound_to_no_pod_are_reviewed() {
    let stage = Stage::new();
    let legacy = with("/kubernetes.io", json!({"namespace": "shop", "serviceaccount": {"name": "reviews"}}));
    assert_eq!(stage.verify_claims(&legacy).await.unwrap(), REVIEWS);
    assert_eq!(stage.metrics.decisions("reviewed"), 1);
}

#[tokio::test]
async fn what_is_wrong_in_itself_is_refused_without_asking() {
    let stage = Stage::new();
    assert!(stage.verify_claims(&claims()).await.is_ok());
    let seconds = now().as_second();
    let refused = async |claims: Value| stage.verify_claims(&claims).await.unwrap_err();
    assert!(matches!(refused(with("/exp", json!(seconds - 60))).await, TokenError::Expired(_)));
    assert!(matches!(refused(with("/nbf", json!(seconds + 60))).await, TokenError::NotYetValid(_)));
    assert!(matches!(refused(with("/aud", json!(["vault"]))).await, TokenError::Audience(_)));
    assert!(matches!(refused(with("/sub", json!("system:node:a"))).await, TokenError::Subject(_)));
    let forger = LocalIssuer::generate(ISSUER).unwrap();
    let forged = signed_as(&forger, &key_id(&stage.issuer), &claims());
    assert_eq!(stage.verify(&forged).await.unwrap_err(), TokenError::Signature);
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&claims()));
    assert!(matches!(stage.verify(&unsigned).await.unwrap_err(), TokenError::Malformed(_)));
    let secret = EncodingKey::from_secret(stage.issuer.key().public_key());
    for header in [Header::new(Algorithm::HS256), Header { kid: Some("new".into()), ..Header::new(Algorithm::HS256) }] {
        let confused = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
        assert_eq!(stage.verify(&confused).await.unwrap_err(), TokenError::Algorithm);
    }
    assert_eq!(stage.asked(), (1, 0));
    assert_eq!(stage.metrics.decisions("algorithm"), 2);
}

#[tokio::test]
async fn another_issuer_of_the_same_keys_is_for_kubernetes_to_judge() {
    let stage = Stage::new();
    stage.server.pods.lock().insert("uid-1".into());
    assert!(stage.verify_claims(&with("/iss", json!("https://old.example"))).await.is_ok(), "an issuer that it still accepts");
    let refused = stage.verify_claims(&with("/iss", json!("https://evil.example"))).await.unwrap_err();
    assert!(matches!(refused, TokenError::Review(_)), "{refused}");
    assert_eq!(stage.asked(), (1, 2));
}

#[tokio::test]
async fn an_unknown_key_is_looked_up_and_a_flood_of_them_is_not() {
    let stage = Stage::new();
    assert!(stage.verify_claims(&claims()).await.is_ok());
    stage.pass(11);
    let successor = LocalIssuer::generate(ISSUER).unwrap();
    *stage.server.keys.lock() = successor.key_set();
    assert_eq!(stage.verify(&signed(&successor, &claims())).await.unwrap(), REVIEWS, "a new key is found at once");
    assert_eq!(stage.asked(), (2, 0));
    let flood = (0..200).map(|n| signed_as(&stage.issuer, &format!("key-{n}"), &claims())).collect::<Vec<_>>();
    let answers = futures::future::join_all(flood.iter().map(|token| stage.verify(token))).await;
    assert!(answers.iter().all(|answer| *answer == Err(TokenError::UnknownKey)), "{answers:?}");
    assert_eq!(stage.asked(), (2, 0), "the flood made nobody ask");
    stage.pass(11);
    let _ = futures::future::join_all(flood.iter().map(|token| stage.verify(token))).await;
    assert_eq!(stage.asked(), (3, 0), "one fetch for all of them");
    assert_eq!(stage.verify(&signed(&successor, &claims())).await.unwrap(), REVIEWS);
}

#[tokio::test]
async fn an_unknown_key_cannot_be_judged_while_the_api_server_is_away() {
    let stage = Stage::new();
    assert!(stage.verify_claims(&claims()).await.is_ok());
    stage.server.away.store(true, Relaxed);
    stage.pass(11);
    let successor = LocalIssuer::generate(ISSUER).unwrap();
    let refused = stage.verify(&signed(&successor, &claims())).await.unwrap_err();
    assert!(matches!(refused, TokenError::Unavailable(_)), "{refused}");
    assert!(stage.verify_claims(&claims()).await.is_ok(), "the keys it had stay good");
}

#[tokio::test]
async fn without_the_keys_kubernetes_judges_every_token() {
    let stage = Stage::new();
    stage.server.no_keys.store(true, Relaxed);
    assert!(matches!(stage.verify_claims(&claims()).await.unwrap_err(), TokenError::Review(_)), "its pod is gone");
    stage.server.pods.lock().insert("uid-1".into());
    assert_eq!(stage.verify_claims(&claims()).await.unwrap(), REVIEWS);
    assert_eq!(stage.asked(), (1, 2), "and the keys are not asked for with each token");
}

#[tokio::test]
async fn an_api_server_that_hangs_is_waited_for_briefly() {
    let hanging = Router::new().fallback(|| async { std::future::pending::<()>().await });
    let (_worlds, seen) = watch::channel(world(&[]));
    let settings = Settings { timeout: Duration::from_millis(50), ..Settings::new("cluster.local") };
    let tokens = ClusterTokens::new(Client::new(hanging, "istio-system"), seen, settings, TokenMetrics::default());
    let token = signed(&LocalIssuer::generate(ISSUER).unwrap(), &claims());
    let all = (0..100).map(|_| tokens.verify(&token, now()));
    for answer in futures::future::join_all(all).await {
        assert!(matches!(answer, Err(TokenError::Unavailable(_))), "{answer:?}");
    }
}

//! Loading and keeping the CA, against an API server in this process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::*;
use crate::identity::{
    ca::Serial,
    ceremony::{CaRequest, CaSubject, intermediate_certificate, root_certificate},
    key::{KeyType, PrivateKey},
};

struct SecretServer {
    secrets: Mutex<BTreeMap<String, Value>>,
    version: AtomicUsize,
    refusals: AtomicUsize,
    /// The first readings of the self-signed root wait for each other.
    readers: Barrier,
    together: AtomicUsize,
    away: AtomicBool,
}

type Shared = State<Arc<SecretServer>>;

impl SecretServer {
    fn new(together: usize) -> Arc<Self> {
        Arc::new(Self {
            secrets: Mutex::default(),
            version: AtomicUsize::new(1),
            refusals: AtomicUsize::new(0),
            readers: Barrier::new(together.max(1)),
            together: AtomicUsize::new(together),
            away: AtomicBool::new(false),
        })
    }

    fn secrets(self: &Arc<Self>, now: Timestamp) -> CaSecrets {
        let path = "/api/v1/namespaces/istio-system/secrets";
        let router = Router::new()
            .route(path, post(Self::create))
            .route(&format!("{path}/{{name}}"), get(Self::read).put(Self::replace))
            .with_state(Arc::clone(self));
        let client = Client::new(router, "istio-system");
        let clock: Clock = Arc::new(move || now);
        CaSecrets {
            client: client.clone(),
            namespace: "istio-system".into(),
            self_signed: SelfSigned { days: 100, ..SelfSigned::new("cluster.local") },
            clock: Arc::clone(&clock),
            metrics: ControllerMetrics::default(),
            ca_metrics: CaMetrics::default(),
            events: SecretEvents { client, namespace: "istio-system".into(), instance: "istiod-1".into(), clock },
        }
    }

    fn put(&self, name: &str, entries: &SecretEntries) {
        let secret = Secret { data: Some(data_of(entries)), ..Secret::default() };
        self.store(name, serde_json::to_value(secret).unwrap());
    }

    fn store(&self, name: &str, mut secret: Value) -> Response {
        secret["metadata"]["name"] = json!(name);
        secret["metadata"]["resourceVersion"] = json!(self.version.fetch_add(1, SeqCst).to_string());
        self.secrets.lock().insert(name.into(), secret.clone());
        Json(secret).into_response()
    }

    fn refuse(&self) -> Response {
        self.refusals.fetch_add(1, SeqCst);
        failure(StatusCode::CONFLICT)
    }

    async fn read(State(store): Shared, Path(name): Path<String>) -> Response {
        if store.away.load(SeqCst) {
            return failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        let found = store.secrets.lock().get(&name).cloned();
        let waits = name == SELF_SIGNED && store.together.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if waits {
            store.readers.wait().await;
        }
        found.map_or_else(|| failure(StatusCode::NOT_FOUND), |secret| Json(secret).into_response())
    }

    async fn create(State(store): Shared, Json(secret): Json<Value>) -> Response {
        let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
        let exists = store.secrets.lock().contains_key(&name);
        if exists { store.refuse() } else { store.store(&name, secret) }
    }

    async fn replace(State(store): Shared, Path(name): Path<String>, Json(secret): Json<Value>) -> Response {
        let known = store.secrets.lock()[&name]["metadata"]["resourceVersion"].clone();
        if secret["metadata"]["resourceVersion"] == known { store.store(&name, secret) } else { store.refuse() }
    }
}

fn failure(code: StatusCode) -> Response {
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason});
    (code, Json(status)).into_response()
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn generated() -> SecretEntries {
    SelfSigned { days: 100, ..SelfSigned::new("cluster.local") }.generate(start()).unwrap()
}

fn given() -> SecretEntries {
    let subject = |name: &str| CaSubject { organization: "Company".into(), common_name: name.into() };
    let (root_key, key) = (PrivateKey::generate(KeyType::P256).unwrap(), PrivateKey::generate(KeyType::P256).unwrap());
    let serial = || Serial::random().unwrap();
    let request = CaRequest { key: &root_key, subject: &subject("root"), days: 90, now: start(), serial: serial() };
    let root = root_certificate(&request).unwrap();
    let request = CaRequest { key: &key, subject: &subject("signing"), days: 50, now: start(), serial: serial() };
    let signing = intermediate_certificate(&request, 0, &root, root_key).unwrap();
    [("ca-cert.pem", signing.pem()), ("ca-key.pem", key.to_pem()), ("cert-chain.pem", signing.pem()), ("root-cert.pem", root.pem())]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .collect()
}

#[tokio::test]
async fn replicas_that_start_together_make_one_root() {
    let store = SecretServer::new(5);
    let replicas: Vec<_> = (0..5).map(|_| store.secrets(start())).collect();
    let loaded = futures::future::join_all(replicas.iter().map(CaSecrets::load)).await;
    let roots: Vec<_> = loaded.iter().map(|loaded| loaded.as_ref().unwrap().0.root_bundle().to_owned()).collect();
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
    assert_eq!(store.refusals.load(SeqCst), 4, "all but one were too late");
    assert_eq!(store.secrets.lock()[SELF_SIGNED]["type"], SELF_SIGNED_TYPE);
}

#[tokio::test]
async fn replicas_that_find_an_old_root_renew_it_once() {
    let store = SecretServer::new(3);
    store.put(SELF_SIGNED, &generated());
    let now = start() + SignedDuration::from_hours(24 * 90);
    let replicas: Vec<_> = (0..3).map(|_| store.secrets(now)).collect();
    let loaded = futures::future::join_all(replicas.iter().map(CaSecrets::load)).await;
    let cas: Vec<_> = loaded.into_iter().map(|loaded| loaded.unwrap().0).collect();
    assert!(cas.iter().all(|ca| ca.root() == cas[0].root()));
    assert!(cas[0].not_after() > start() + SignedDuration::from_hours(24 * 150), "{}", cas[0].not_after());
    assert_eq!(store.refusals.load(SeqCst), 2);
}

#[tokio::test]
async fn what_was_given_comes_first_and_what_is_no_good_is_not_passed_over() {
    let store = SecretServer::new(0);
    store.put(SELF_SIGNED, &generated());
    store.put(CACERTS, &given());
    let (ca, origin) = store.secrets(start()).load().await.unwrap();
    assert_eq!((ca.certificate().subject.as_str(), origin), ("O=Company, CN=signing", CaOrigin::Provided));

    let tls = [("tls.crt", "ca-cert.pem"), ("tls.key", "ca-key.pem"), ("ca.crt", "root-cert.pem")];
    let istio = given();
    store.put(CACERTS, &tls.into_iter().map(|(name, from)| (name.to_owned(), istio[from].clone())).collect());
    assert_eq!(store.secrets(start()).load().await.unwrap().1, CaOrigin::Provided, "the form of kubernetes.io/tls");

    let mut half = given();
    half.remove("ca-key.pem");
    store.put(CACERTS, &half);
    let refused = store.secrets(start()).load().await.unwrap_err().to_string();
    assert!(refused.contains("Secret istio-system/cacerts") && refused.contains("ca-key.pem missing"), "{refused}");

    store.put(CACERTS, &BTreeMap::from([("note".to_owned(), b"to be filled".to_vec())]));
    assert_eq!(store.secrets(start()).load().await.unwrap().1, CaOrigin::SelfSigned(SELF_SIGNED));
}

#[tokio::test]
async fn a_root_that_istiod_keeps_in_cacerts_is_used() {
    let store = SecretServer::new(0);
    let mut of_istiod = generated();
    of_istiod.insert(GENERATED.into(), Vec::new());
    store.put(CACERTS, &of_istiod);
    let (ca, origin) = store.secrets(start()).load().await.unwrap();
    assert_eq!(origin, CaOrigin::SelfSigned(CACERTS));
    assert_eq!(ca.root_bundle().as_bytes(), of_istiod["root-cert.pem"]);
    assert!(!store.secrets.lock().contains_key(SELF_SIGNED));
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let store = SecretServer::new(0);
    store.away.store(true, SeqCst);
    let secrets = store.secrets(start());
    let load = secrets.load();
    tokio::pin!(load);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut load).await.is_err(), "there is no CA, and no answer");
    assert!(store.secrets.lock().is_empty());
    store.away.store(false, SeqCst);
    assert_eq!(load.await.unwrap().1, CaOrigin::SelfSigned(SELF_SIGNED));
}

#[tokio::test]
async fn what_the_secrets_say_later_is_offered_by_the_same_rules() {
    let store = SecretServer::new(0);
    let secrets = store.secrets(start());
    let (ca, origin) = secrets.load().await.unwrap();
    let entries = entries_of(&serde_json::from_value(store.secrets.lock()[SELF_SIGNED].clone()).unwrap());
    let mut keeper = Keeper { secrets, handle: CaHandle::new(ca), origin };
    let root = |keeper: &Keeper| keeper.handle.current().root().clone();
    let before = root(&keeper);

    keeper.consider(CACERTS, &given());
    assert_eq!((root(&keeper), keeper.origin), (before.clone(), CaOrigin::SelfSigned(SELF_SIGNED)), "another root needs a restart");
    keeper.consider(SELF_SIGNED, &generated());
    assert_eq!(root(&keeper), before, "and so does another self-signed one");
    let renewed = keeper.secrets.self_signed.renew(&entries, start() + SignedDuration::from_hours(24 * 90)).unwrap().unwrap();
    keeper.secrets.clock = Arc::new(|| start() + SignedDuration::from_hours(24 * 91));
    keeper.consider(SELF_SIGNED, &renewed);
    assert_ne!(root(&keeper), before, "its own, renewed, does not");
    keeper.consider(SELF_SIGNED, &BTreeMap::new());
    assert_ne!(root(&keeper), before, "an emptied Secret changes nothing");
}

//! A server of modules, and a registry, at which everything is counted.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    extract::{Path as At, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    unpack::tests::{gzip, tar},
    *,
};

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// `user:password`
const BASIC: &str = "Basic dXNlcjpwYXNzd29yZA==";

struct Served {
    address: SocketAddr,
    requests: AtomicUsize,
}

/// Serves `/NAME.wasm`, and images of repository `x/y`.
async fn serve() -> Arc<Served> {
    // Not 127.0.0.1, which is not called.
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let served = Arc::new(Served { address: listener.local_addr().unwrap(), requests: AtomicUsize::new(0) });
    let router = Router::new()
        .route("/files/{name}", get(file))
        .route("/v2/x/y/manifests/{reference}", get(manifest))
        .route("/v2/x/y/blobs/{digest}", get(blob))
        .route("/token", get(token))
        .with_state(Arc::clone(&served));
    tokio::spawn(async move { axum::serve(listener, router).await });
    served
}

async fn file(State(served): State<Arc<Served>>, At(name): At<String>) -> Response {
    let number = served.requests.fetch_add(1, Ordering::SeqCst);
    match name.as_str() {
        "good" => MODULE.into_response(),
        "new" => [MODULE, number.to_string().as_bytes()].concat().into_response(),
        "packed" => gzip(&tar(&[("m.wasm", MODULE)])).into_response(),
        "text" => "hello".into_response(),
        "moved" => (StatusCode::FOUND, [("location", "/files/good")]).into_response(),
        "late" if number == 0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        "late" => MODULE.into_response(),
        "large" => vec![0; client::LARGEST + 1].into_response(),
        "slow" => {
            time::sleep(Duration::from_secs(60)).await;
            MODULE.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn layer() -> Vec<u8> {
    gzip(&tar(&[("plugin.wasm", MODULE)]))
}

fn manifest_of(reference: &str) -> Option<String> {
    let (media_type, bytes) = match reference {
        "packed" => ("application/vnd.oci.image.layer.v1.tar+gzip", layer()),
        "plain" | "latest" => ("application/vnd.module.wasm.content.layer.v1+wasm", MODULE.to_vec()),
        "list" => {
            let of = |reference: &str, os: &str| {
                let digest = format!("sha256:{}", hex(manifest_of(reference).unwrap().as_bytes()));
                json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "platform": {"os": os, "architecture": "amd64"}})
            };
            return Some(json!({"manifests": [of("other", "windows"), of("packed", "linux")]}).to_string());
        }
        "other" => ("text/plain", b"hello".to_vec()),
        _ => return None,
    };
    let digest = format!("sha256:{}", hex(&bytes));
    Some(json!({"schemaVersion": 2, "layers": [{"mediaType": media_type, "digest": digest, "size": bytes.len()}]}).to_string())
}

fn needs(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_none_or(|value| value != "Bearer ticket")
}

async fn manifest(State(served): State<Arc<Served>>, At(reference): At<String>, headers: HeaderMap) -> Response {
    served.requests.fetch_add(1, Ordering::SeqCst);
    if needs(&headers) {
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", served.address);
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    let named = ["packed", "plain", "latest", "list", "other"].into_iter().filter_map(manifest_of);
    let by_digest = || named.clone().find(|text| reference == format!("sha256:{}", hex(text.as_bytes())));
    manifest_of(&reference).or_else(by_digest).map_or(StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

async fn blob(At(digest): At<String>, headers: HeaderMap) -> Response {
    if needs(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let found = [MODULE.to_vec(), layer()].into_iter().find(|bytes| digest == format!("sha256:{}", hex(bytes)));
    found.map_or(StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

async fn token(headers: HeaderMap) -> Response {
    match headers.get("authorization") {
        Some(value) if value == BASIC => Json(json!({"token": "ticket"})).into_response(),
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

struct Stage {
    served: Arc<Served>,
    modules: Modules,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (served, folder) = (serve().await, tempfile::tempdir().unwrap());
        let modules = Modules::new(folder.path().join("modules"), vec![served.address.to_string()]);
        Self { served, modules, folder }
    }

    fn http(&self, name: &str) -> Wanted {
        let url = format!("http://{}/files/{name}", self.served.address);
        Wanted { url, filter: "f".into(), version: "1".into(), patience: Duration::from_secs(20), ..Wanted::default() }
    }

    fn image(&self, reference: &str) -> Wanted {
        let config = json!({"auths": {self.served.address.to_string(): {"auth": &BASIC[6..]}}}).to_string();
        let url = format!("oci://{}/x/y{reference}", self.served.address);
        Wanted { url, secret: Secret::Is(Credentials(config.as_str().into())), ..self.http("") }
    }

    /// Returns the content of a module, or why there is none, and how many requests that took.
    async fn get(&self, wanted: &Wanted) -> (Result<Vec<u8>, String>, usize) {
        let before = self.served.requests.load(Ordering::SeqCst);
        let got = self.modules.file(wanted).await.map(|file| fs::read(file).unwrap());
        (got, self.served.requests.load(Ordering::SeqCst) - before)
    }
}

#[tokio::test]
async fn a_module_is_fetched_once_and_kept_across_restarts_by_its_digest() {
    let mut stage = Stage::new().await;
    let wanted = Wanted { digest: hex(MODULE), ..stage.http("good") };
    assert_eq!(stage.get(&wanted).await, (Ok(MODULE.to_vec()), 1));
    assert_eq!(stage.get(&wanted).await, (Ok(MODULE.to_vec()), 0));
    stage.modules = Modules::new(stage.folder.path().join("modules"), Vec::new());
    assert_eq!(stage.get(&wanted).await, (Ok(MODULE.to_vec()), 0));
    // Another URL may mean another module, though its digest is the same.
    assert_eq!(stage.get(&Wanted { digest: hex(MODULE), ..stage.http("moved") }).await, (Ok(MODULE.to_vec()), 2));
}

#[tokio::test]
async fn a_module_without_a_digest_is_fetched_again_as_its_policy_says() {
    let stage = Stage::new().await;
    let of = |filter: &str, version: &str, pull| Wanted { filter: filter.into(), version: version.into(), pull, ..stage.http("new") };
    let first = stage.get(&of("f", "1", PullPolicy::Unspecified)).await;
    assert_eq!(first.1, 1);
    for same in [of("f", "2", PullPolicy::IfNotPresent), of("g", "1", PullPolicy::Unspecified), of("f", "1", PullPolicy::Always)] {
        assert_eq!(stage.get(&same).await, (first.0.clone(), 0), "{same:?}");
    }
    let newer = stage.get(&of("f", "2", PullPolicy::Always)).await;
    assert!(newer.1 == 1 && newer.0 != first.0);
    // What is newest is what there is for others, too.
    assert_eq!(stage.get(&of("g", "1", PullPolicy::IfNotPresent)).await, (newer.0, 0));
}

#[tokio::test]
async fn what_is_no_module_or_not_the_one_that_is_meant_is_refused() {
    let stage = Stage::new().await;
    assert_eq!(stage.get(&stage.http("packed")).await.0, Ok(MODULE.to_vec()));
    for (wanted, why) in [
        (stage.http("text"), "is no WebAssembly module"),
        (stage.http("gone"), "answers 404"),
        (Wanted { digest: hex(b"other"), ..stage.http("good") }, "and must have"),
        (stage.http("large"), "is larger than"),
        (Wanted { patience: Duration::from_millis(50), ..stage.http("slow") }, "not there within"),
        (Wanted { url: "http://127.0.0.1:1/x".into(), ..stage.http("") }, "where no module may be fetched from"),
        (Wanted { url: "http://169.254.169.254/latest".into(), ..stage.http("") }, "where no module may be fetched from"),
        (Wanted { url: "file:///etc/passwd".into(), ..stage.http("") }, "is no URL"),
    ] {
        let refused = stage.get(&wanted).await.0.unwrap_err();
        assert!(refused.contains(why), "{}: {refused}", wanted.url);
    }
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again() {
    let stage = Stage::new().await;
    assert_eq!(stage.get(&stage.http("late")).await, (Ok(MODULE.to_vec()), 2));
}

#[tokio::test]
async fn an_image_is_found_in_each_of_its_forms_with_what_the_registry_asks_for() {
    let stage = Stage::new().await;
    for reference in [":packed", ":plain", ":list", ""] {
        assert_eq!(stage.get(&stage.image(reference)).await.0, Ok(MODULE.to_vec()), "{reference}");
    }
    let digest = hex(manifest_of("packed").unwrap().as_bytes());
    let by_digest = stage.image(&format!("@sha256:{digest}"));
    assert_eq!(stage.get(&Wanted { secret: Secret::Missing, ..stage.image(":packed") }).await, (Ok(MODULE.to_vec()), 0), "it is there");
    // It is the one with that tag.
    assert_eq!(stage.get(&by_digest).await, (Ok(MODULE.to_vec()), 0));
    assert_eq!(stage.get(&Wanted { digest, ..stage.image(":packed") }).await, (Ok(MODULE.to_vec()), 0));
    for (wanted, why) in [
        (stage.image(":other"), "none that a module is in"),
        (stage.image(":gone"), "its manifest is refused: 404"),
        (Wanted { digest: hex(b"other"), ..stage.image(":packed") }, "and must have"),
        (Wanted { secret: Secret::Missing, ..stage.image(":new") }, "its pull secret is missing"),
        (Wanted { secret: Secret::Nothing, ..stage.image(":new") }, "a token of its registry is refused: 403"),
    ] {
        let refused = stage.get(&wanted).await.0.unwrap_err();
        assert!(refused.contains(why), "{}: {refused}", wanted.url);
    }
}

#[tokio::test]
async fn the_newest_image_is_asked_for_whenever_the_object_changes() {
    let stage = Stage::new().await;
    assert_eq!(stage.get(&stage.image("")).await.1, 2, "the first is answered with what is asked for");
    assert_eq!(stage.get(&stage.image("")).await.1, 0);
    assert_eq!(stage.get(&Wanted { version: "2".into(), ..stage.image("") }).await.1, 2);
    assert_eq!(stage.get(&Wanted { version: "3".into(), pull: PullPolicy::IfNotPresent, ..stage.image("") }).await.1, 0);
}

//! Reviews and YAML at random.

use std::{fs, path::Path, sync::Arc};

use axum::{Router, body::Body};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use istiod_lite::{
    api::{self, mesh_config::MeshConfig, yaml},
    mesh::engine::Engine,
    webhook::{
        admission::{self, AdmissionMetrics},
        inject::{self, InjectionMetrics, Injector, Settings},
    },
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::random_texts::Texts;

#[tokio::test]
async fn reviews_at_random() {
    let corpus: Vec<Vec<u8>> = pods().into_iter().map(|pod| review(&pod)).chain(objects().iter().map(review)).collect();
    let (webhooks, _worlds) = webhooks();
    let mut texts = Texts::of("reviews", corpus);
    while let Some(text) = texts.next() {
        let path = if texts.below(2) == 0 { "/inject" } else { "/validate" };
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(Body::from(text)).unwrap();
        let response = webhooks.clone().oneshot(request).await.unwrap();
        let status = response.status();
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST), "{status}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() < 8 << 20, "{} bytes", body.len());
    }
    texts.end();
}

#[test]
fn yaml_at_random() {
    let corpus = files("tests/golden").chain(files("tests/oracle/cases")).map(|text| text.into_bytes()).collect();
    let mut texts = Texts::of("YAML", corpus);
    while let Some(text) = texts.next() {
        let text = String::from_utf8_lossy(&text);
        for document in yaml::each_document(&text).map(yaml::document) {
            match document {
                Ok(value) => {
                    let parsed = api::parse(&value, &"Kubernetes".into());
                    assert!(parsed.diagnostics.len() < 10_000);
                    api::parse_mesh_config(&value, &"Kubernetes".into());
                }
                Err(broken) => assert!(broken.to_string().len() < 10_000, "{broken}"),
            }
        }
    }
    texts.end();
}

fn review(object: &Value) -> Vec<u8> {
    let request = json!({"uid": "u", "namespace": "shop", "name": "a", "operation": "UPDATE", "object": object, "oldObject": object});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

fn webhooks() -> (Router, watch::Sender<Arc<istiod_lite::mesh::world::World>>) {
    let (worlds, seen) = watch::channel(Arc::default());
    let injector = Injector { settings: Settings::default(), worlds: seen, metrics: InjectionMetrics::default() };
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let all = objects();
    let parsed = all.iter().flat_map(|object| api::parse(object, &"Kubernetes".into()).objects);
    engine.apply(parsed.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
    let admission = admission::routes(watch::channel(engine).1, "Kubernetes".into(), AdmissionMetrics::default());
    (inject::routes(Arc::new(injector)).merge(admission), worlds)
}

/// Returns the pods of the injection's fixtures: those that stand in a template, too.
fn pods() -> Vec<Value> {
    let documents = files("tests/inject").flat_map(|text| documents(&text)).collect::<Vec<_>>();
    documents.into_iter().map(|object| object.pointer("/spec/template").cloned().unwrap_or(object)).collect()
}

fn objects() -> Vec<Value> {
    files("tests/golden").flat_map(|text| documents(&text)).collect()
}

fn documents(text: &str) -> Vec<Value> {
    yaml::each_document(text).filter_map(|document| yaml::document(document).ok()).filter(Value::is_object).collect()
}

/// Returns the files `in.yaml` in the folders of a folder.
fn files(folder: &str) -> impl Iterator<Item = String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("in.yaml")).collect();
    all.sort();
    all.into_iter().filter_map(|path| fs::read_to_string(path).ok())
}

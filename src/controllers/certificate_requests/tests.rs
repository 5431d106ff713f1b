//! Requests that others decide about, against an API server in this process.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::identity::registration::{SignerName, Usage};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What an API server answers, and what it was asked to do.
struct Script {
    approval: Response,
    read: Option<Value>,
}

type Done = State<(Arc<Mutex<Option<Script>>>, Arc<Mutex<Vec<&'static str>>>)>;

/// Returns what comes of a request whose approval is answered so, and of its first reading after that; and what was asked of the server.
async fn outcome(approval: Response, read: Option<Value>) -> (Result<String, SignerError>, Vec<&'static str>) {
    let done: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let router = Router::new()
        .route(PATH, post(async |State((_, done)): Done| note(&done, "create", Json(request(json!({}))).into_response())))
        .route(
            &format!("{PATH}/csr-1"),
            get(async |State((script, done)): Done| {
                let read = script.lock().as_ref().and_then(|script| script.read.clone());
                note(&done, "get", read.map_or_else(|| refusal(404, "not found"), |read| Json(read).into_response()))
            })
            .delete(async |State((_, done)): Done| note(&done, "delete", Json(request(json!({}))).into_response())),
        )
        .route(
            &format!("{PATH}/csr-1/approval"),
            put(async |State((script, done)): Done| {
                let approval = script.lock().as_mut().map(|script| std::mem::replace(&mut script.approval, refusal(500, "again")));
                note(&done, "approve", approval.unwrap_or_else(|| refusal(500, "no script")))
            }),
        )
        .with_state((Arc::new(Mutex::new(Some(Script { approval, read }))), Arc::clone(&done)));
    let client = Client::new(router, "istio-system");
    let (requests, tidying) = CertificateRequests::new(client, "istio-system", "", Duration::from_secs(20), ControllerMetrics::default());
    let tidying = tokio::spawn(tidying);
    let submission = Submission {
        signer: SignerName::parse("example.com/mesh").unwrap(),
        request: "pem".into(),
        lifetime: Duration::from_secs(3_600),
        usage: Usage::Workload,
    };
    let result = requests.sign(submission).await;
    while !done.lock().contains(&"delete") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tidying.abort();
    let done = done.lock().clone();
    (result, done)
}

fn note(done: &Mutex<Vec<&'static str>>, what: &'static str, answer: Response) -> Response {
    done.lock().push(what);
    answer
}

fn request(status: Value) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": "csr-1", "resourceVersion": "1" }, "spec": { "request": "", "signerName": "example.com/mesh" }, "status": status,
    })
}

fn refusal(code: u16, message: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "" });
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

fn condition(kind: &str) -> Value {
    json!({ "type": kind, "status": "True", "reason": "Policy", "message": "not today" })
}

#[tokio::test]
async fn a_request_that_others_denied_first_is_denied_and_deleted() {
    let denied = request(json!({ "conditions": [condition("Denied")] }));
    let (result, done) = outcome(refusal(409, "the object has been modified"), Some(denied)).await;
    assert_eq!(result, Err(SignerError::Denied("Policy: not today".into())));
    assert_eq!(done, ["create", "approve", "get", "delete"], "nobody is overruled");
}

#[tokio::test]
async fn a_request_that_others_approved_first_goes_on() {
    let signed = request(json!({ "conditions": [condition("Approved")], "certificate": "cGVt" }));
    let (result, done) = outcome(refusal(409, "the object has been modified"), Some(signed)).await;
    assert_eq!((result, done.last()), (Ok("pem".into()), Some(&"delete")));
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_and_leaves_nothing_behind() {
    let (result, _) = outcome(refusal(403, "user not permitted to approve requests with signerName"), None).await;
    assert!(matches!(&result, Err(SignerError::Forbidden(why)) if why.contains("not permitted to approve")), "{result:?}");
    let (result, _) = outcome(refusal(503, "etcd is away"), None).await;
    assert_eq!(result, Err(SignerError::Unavailable("etcd is away".into())));
    let (result, _) = outcome(refusal(409, "the object has been modified"), None).await;
    assert_eq!(result, Err(SignerError::Gone));
}

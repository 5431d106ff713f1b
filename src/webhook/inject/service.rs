//! Serves the injection webhook under `/inject` (contract §5.2).

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::Value;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::{
    InjectionMetrics, Outcome, Parameters, Refused, Settings, Surroundings,
    decision::{POD_LABEL, POD_SECURITY_LABEL, decide},
    inject,
    merge::AUTO_IMAGE,
    patch,
    shape::{containers, string_map},
};
use crate::{
    api::value::{Allowance, from_json},
    mesh::world::World,
    peer_text::PeerText,
    sparse_log::{FEW, MANY, SparseLog},
    webhook::{
        review::{AdmissionRequest, AdmissionResponse, Review, received},
        reviews::{Reviews, Unanswered},
    },
};

/// The most memory that the values of a pod may take. Pods take a few hundred kB; one of 3 MB of text is within it, and one of 200
/// containers with 100 variables each is not.
const MOST_OF_POD: usize = 8 << 20;

/// The injection webhook.
#[derive(Debug)]
pub struct Injector {
    /// The settings of the operator.
    pub settings: Settings,
    /// The worlds, for the settings of the mesh.
    pub worlds: watch::Receiver<Arc<World>>,
    /// The counters.
    pub metrics: InjectionMetrics,
}

/// Returns the routes `/inject` and `/inject/*`.
pub fn routes(injector: Arc<Injector>) -> Router {
    let reviews = Reviews::new(injector.metrics.late());
    let webhook = Webhook { injector, reviews };
    Router::new()
        .route("/inject", post(plain))
        .route("/inject/", post(plain))
        .route("/inject/{*parameters}", post(with_parameters))
        .with_state(webhook)
}

#[derive(Clone)]
struct Webhook {
    injector: Arc<Injector>,
    reviews: Reviews,
}

async fn plain(State(webhook): State<Webhook>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    webhook.serve(&headers, body, Parameters::default()).await
}

async fn with_parameters(
    State(webhook): State<Webhook>,
    Path(parameters): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    webhook.serve(&headers, body, Parameters::read(&parameters)).await
}

// === impl Webhook ===

impl Webhook {
    async fn serve(self, headers: &HeaderMap, body: Result<Bytes, BytesRejection>, parameters: Parameters) -> Response {
        let began = Instant::now();
        let metrics = self.injector.metrics.clone();
        let (outcome, response) = match received(body).and_then(|body| check(headers, body)) {
            Ok(body) => self.review(body, parameters).await,
            Err(refused) => unread(refused),
        };
        metrics.count(outcome, began.elapsed());
        response
    }

    async fn review(self, body: Bytes, parameters: Parameters) -> (Outcome, Response) {
        let Self { injector, reviews } = self;
        let review = body.clone();
        let answered = reviews.answer(body.len(), move || match Review::read(&review) {
            Ok(review) => {
                let (outcome, answer) = injector.answer(&review, &parameters);
                (outcome, Json(review.respond(&answer)).into_response())
            }
            Err(why) => unread((StatusCode::BAD_REQUEST, why)),
        });
        answered.await.unwrap_or_else(|unanswered| (Outcome::Failed, refuse(&body, unanswered)))
    }
}

/// Refuses a pod that was not looked at to the end. Let pass, it would run without a proxy: nothing that it sends or gets would be
/// authenticated, and no policy held.
fn refuse(body: &[u8], unanswered: Unanswered) -> Response {
    let Unanswered::Late(deadline) = unanswered else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the pod could not be injected: see the log of istiod-lite\n").into_response();
    };
    let Ok(review) = Review::read(body) else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    static LATE: SparseLog = SparseLog::new(FEW);
    LATE.write(|left_out| {
        let (namespace, pod) = (PeerText::new(&review.request.namespace), PeerText::new(&review.request.name));
        tracing::warn!(%namespace, %pod, left_out, "refused at the deadline of its review");
    });
    let message = format!("the pod could not be injected within {deadline:?}: make it smaller, or try again");
    Json(review.respond(&AdmissionResponse::refusal(504, message))).into_response()
}

fn unread((status, why): (StatusCode, String)) -> (Outcome, Response) {
    static UNREAD: SparseLog = SparseLog::new(FEW);
    UNREAD.write(|left_out| {
        let why = PeerText::new(&why);
        tracing::warn!(%why, left_out, "an injection request cannot be read");
    });
    (Outcome::Failed, (status, why).into_response())
}

// === impl Injector ===

impl Injector {
    /// Answers the API server about one pod. Returns the answer, and the outcome that is counted.
    pub fn answer(&self, review: &Review<'_>, parameters: &Parameters) -> (Outcome, AdmissionResponse) {
        let request = &review.request;
        let text = match request.object_text() {
            Ok(text) => text,
            Err(refusal) => return (Outcome::Failed, refusal),
        };
        match from_json(text, &Allowance::new(MOST_OF_POD)) {
            Ok(pod) => self.answer_about(&pod, request, parameters),
            Err(error) => self.refused(request, &request.name, &Refused(vec![format!("is no Pod: {error}")])),
        }
    }

    fn answer_about(&self, object: &Value, request: &AdmissionRequest<'_>, parameters: &Parameters) -> (Outcome, AdmissionResponse) {
        let pod = pod_name(object, request);
        if let Err(skip) = decide(&request.namespace, object) {
            let (namespace, pod) = (PeerText::new(&request.namespace), PeerText::new(pod));
            tracing::debug!(%namespace, %pod, %skip, "not injected");
            let warnings = if expects_a_proxy(object) { vec![format!("no proxy is injected: {skip}")] } else { Vec::new() };
            return (Outcome::Skipped, AdmissionResponse { warnings, ..AdmissionResponse::default() });
        }
        let world = Arc::clone(&self.worlds.borrow());
        let labels = world.namespaces.get(request.namespace.as_str());
        let around = Surroundings {
            namespace: &request.namespace,
            pod_security: labels.and_then(|labels| labels.get(POD_SECURITY_LABEL)).map(SmolStr::as_str),
            owner: None,
            parameters,
            settings: &self.settings,
            world: &world,
        };
        let injected = inject(object, around).and_then(|injected| {
            let patch = patch::between(object, &injected.pod).map_err(|error| Refused(vec![error.to_string()]))?;
            let warnings = injected.warnings.iter().map(|warning| PeerText::new(warning).to_string()).collect();
            Ok(AdmissionResponse { patch, warnings, refusal: None })
        });
        match injected {
            Ok(answer) => {
                static INJECTED: SparseLog = SparseLog::new(MANY);
                INJECTED.write(|left_out| {
                    let (namespace, pod) = (PeerText::new(&request.namespace), PeerText::new(pod));
                    tracing::info!(%namespace, %pod, left_out, "injected");
                });
                (Outcome::Injected, answer)
            }
            Err(refused) => self.refused(request, pod, &refused),
        }
    }

    fn refused(&self, request: &AdmissionRequest<'_>, pod: &str, refused: &Refused) -> (Outcome, AdmissionResponse) {
        static REFUSED: SparseLog = SparseLog::new(MANY);
        REFUSED.write(|left_out| {
            let (namespace, pod) = (PeerText::new(&request.namespace), PeerText::new(pod));
            let why = PeerText::new(&refused.to_string());
            tracing::warn!(%namespace, %pod, refused = %why, left_out, "refused");
        });
        let pod = PeerText::new(&format!("{}/{pod}", request.namespace));
        let message = format!("Pod {pod} cannot be injected: {}", PeerText::new(&refused.to_string()));
        (Outcome::Failed, AdmissionResponse::refusal(422, message))
    }
}

fn check(headers: &HeaderMap, body: Bytes) -> Result<Bytes, (StatusCode, String)> {
    if body.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "no body found".to_owned()));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next() != Some("application/json") {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid Content-Type, want `application/json`".to_owned()));
    }
    Ok(body)
}

/// Returns whether a pod asks for a proxy by its label, or by a container that has no image of its own.
fn expects_a_proxy(pod: &Value) -> bool {
    let by_label = string_map(pod, "/metadata/labels").get(POD_LABEL).is_some_and(|inject| inject == "true");
    by_label || containers(pod).any(|container| container.get("image").is_some_and(|image| image == AUTO_IMAGE))
}

fn pod_name<'p>(pod: &'p Value, request: &'p AdmissionRequest<'_>) -> &'p str {
    let metadata = |field| pod.pointer(field).and_then(Value::as_str);
    let names = [Some(request.name.as_str()), metadata("/metadata/name"), metadata("/metadata/generateName")];
    names.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use base64::{Engine, engine::general_purpose::STANDARD};
    use http_body_util::BodyExt;
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;

    struct Webhook {
        routes: Router,
        registry: Registry,
    }

    impl Webhook {
        fn new() -> Self {
            let (metrics, mut registry) = (InjectionMetrics::default(), Registry::default());
            metrics.register(&mut registry);
            let worlds = watch::channel(Arc::default()).1;
            Self { routes: routes(Arc::new(Injector { settings: Settings::default(), worlds, metrics })), registry }
        }

        async fn post(&self, path: &str, kind: &str, body: String) -> (StatusCode, String) {
            let request = Request::post(path).header(CONTENT_TYPE, kind).body(Body::from(body)).unwrap();
            let response = self.routes.clone().oneshot(request).await.unwrap();
            let status = response.status();
            (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
        }

        // The response to a review of this pod.
        async fn review(&self, path: &str, pod: &Value) -> Value {
            let request = json!({"uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod});
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
            let (status, body) = self.post(path, "application/json", review.to_string()).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            serde_json::from_str::<Value>(&body).unwrap()["response"].take()
        }

        fn counted(&self) -> Vec<String> {
            let mut text = String::new();
            encode(&mut text, &self.registry).unwrap();
            let counts = text.lines().filter_map(|line| line.strip_prefix("sidecar_injection_")).filter(|line| line.contains("_total "));
            counts.map(str::to_owned).collect()
        }
    }

    fn pod(labels: Value, annotations: Value) -> Value {
        let metadata = json!({"name": "app", "labels": labels, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "app", "unknownToUs": 1}]}})
    }

    #[tokio::test]
    async fn the_patch_makes_the_injected_pod_and_keeps_what_is_unknown() {
        let (webhook, mut pod) = (Webhook::new(), pod(json!({}), json!({})));
        let response = webhook.review("/inject/cluster/c1/net/north", &pod).await;
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["containers"][0], json!({"name": "app", "unknownToUs": 1}));
        assert_eq!(pod["metadata"]["labels"]["topology.istio.io/network"], "north");
        let proxy = &pod["spec"]["initContainers"][1];
        for (name, value) in [("ISTIO_META_CLUSTER_ID", "c1"), ("ISTIO_META_NETWORK", "north")] {
            assert!(proxy["env"].as_array().unwrap().contains(&json!({"name": name, "value": value})), "{proxy}");
        }
    }

    #[tokio::test]
    async fn each_way_to_end_is_counted() {
        let webhook = Webhook::new();
        let mut on_the_node = pod(json!({POD_LABEL: "true"}), json!({}));
        on_the_node["spec"]["hostNetwork"] = json!(true);
        let response = webhook.review("/inject", &on_the_node).await;
        assert_eq!(response["warnings"], json!(["no proxy is injected: the pod uses the node's network (spec.hostNetwork)"]));
        on_the_node["metadata"]["labels"] = json!({});
        on_the_node["spec"]["containers"] = json!([{"name": "istio-proxy", "image": "auto"}]);
        assert_eq!(webhook.review("/inject", &on_the_node).await["warnings"], response["warnings"]);
        let response = webhook.review("/inject", &pod(json!({POD_LABEL: "false"}), json!({}))).await;
        assert_eq!(response, json!({"uid": "u", "allowed": true}));
        let response = webhook.review("/inject", &pod(json!({}), json!({"sidecar.istio.io/proxyCPU": "much"}))).await;
        assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
        assert!(response["status"]["message"].as_str().unwrap().starts_with("Pod shop/app cannot be injected: annotation"));
        webhook.review("/inject", &pod(json!({}), json!({}))).await;

        assert_eq!(webhook.post("/inject", "application/json", String::new()).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(webhook.post("/inject", "application/json", "{}".to_owned()).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(webhook.post("/inject", "text/plain", "{}".to_owned()).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(webhook.counted(), ["requests_total 8", "success_total 1", "failure_total 4", "skip_total 3"]);
    }
}

//! What the API server is answered.

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::{AdmissionMetrics, routes};
use crate::{
    api::{
        mesh_config::MeshConfig,
        parse,
        yaml::{document, documents},
    },
    mesh::engine::Engine,
};

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: old, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
";

fn engine(yaml: &str) -> Engine {
    let mut engine = empty();
    let objects = documents(yaml).into_iter().flat_map(|text| parse(&document(text).unwrap(), &"Kubernetes".into()).objects);
    engine.apply(objects.map(|object| (object.key.clone(), Some(object))));
    engine
}

fn empty() -> Engine {
    Engine::new("cluster.local", MeshConfig::default())
}

struct Webhook {
    routes: Router,
    registry: Registry,
}

impl Webhook {
    fn on(engine: Engine) -> Self {
        let (metrics, mut registry) = (AdmissionMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        Self { routes: routes(watch::channel(engine).1, "Kubernetes".into(), metrics), registry }
    }

    async fn post(&self, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
        let request = Request::post("/validate").header("content-type", "application/json").body(body.into()).unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        (response.status(), response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn asked(&self, request: Value) -> Value {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, body) = self.post(review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&answer["apiVersion"], &answer["response"]["uid"]), (&json!("admission.k8s.io/v1"), &json!("u")));
        answer["response"].clone()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn create(object: Value) -> Value {
    json!({
        "uid": "u", "operation": "CREATE", "namespace": "shop", "name": object["metadata"]["name"], "object": object,
        "resource": {"group": "networking.istio.io", "version": "v1", "resource": "virtualservices"},
    })
}

fn update(old: Value, object: Value) -> Value {
    let mut request = create(object);
    request["operation"] = json!("UPDATE");
    request["oldObject"] = old;
    request
}

fn virtual_service(http: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"hosts": ["reviews.example"], "http": [http]},
    })
}

fn right() -> Value {
    virtual_service(json!({"route": [{"destination": {"host": "reviews"}}]}))
}

fn wrong() -> Value {
    virtual_service(json!({"route": [{"destination": {"host": "reviews"}}], "timeout": "soon", "tiemout": "1s"}))
}

const WRONG: &str = "VirtualService/shop/reviews spec.http[0].timeout: must be a duration such as 1.5s or 250ms, is \"soon\"";
const DOUBTFUL: &str = "VirtualService/shop/reviews spec.http[0].tiemout: unknown field: it has no effect";

#[tokio::test]
async fn what_is_right_passes_and_what_is_wrong_is_refused_with_its_fields() {
    let webhook = Webhook::on(engine(SHOP));
    assert_eq!(webhook.asked(create(right())).await, json!({"uid": "u", "allowed": true}));
    let refused = json!({"uid": "u", "allowed": false, "status": {"code": 422, "message": WRONG}, "warnings": [DOUBTFUL]});
    assert_eq!(webhook.asked(create(wrong())).await, refused);
    assert_eq!(webhook.asked(update(right(), wrong())).await, refused);
    let metrics = webhook.metrics();
    let series = "{group=\"networking.istio.io\",version=\"v1\",resource=\"virtualservices\"";
    assert!(metrics.contains(&format!("galley_validation_passed{series}}} 1")), "{metrics}");
    assert!(metrics.contains(&format!("galley_validation_failed{series},reason=\"invalid_resource\"}} 2")), "{metrics}");
}

#[tokio::test]
async fn what_leads_nowhere_in_the_world_is_a_warning() {
    let nowhere = virtual_service(json!({"route": [{"destination": {"host": "gone"}}]}));
    let warnings = json!([
        "VirtualService/shop/reviews spec.http[0].route[0].destination.host: no service has the host gone.shop.svc.cluster.local; requests get 503"
    ]);
    let answer = Webhook::on(engine(SHOP)).asked(create(nowhere.clone())).await;
    assert_eq!((&answer["allowed"], &answer["warnings"]), (&json!(true), &warnings));
    // Before the first world nothing is known to be missing.
    assert_eq!(Webhook::on(empty()).asked(create(nowhere)).await, json!({"uid": "u", "allowed": true}));
}

#[tokio::test]
async fn what_a_root_takes_over_from_its_delegate_is_said_too() {
    let leaf = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: leaf, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {http: [{route: [{destination: {host: gone}}]}]}
";
    let root = virtual_service(json!({"delegate": {"name": "leaf"}}));
    let answer = Webhook::on(engine(&format!("{SHOP}{leaf}"))).asked(create(root)).await;
    let warning = "VirtualService/shop/leaf spec.http[0].route[0].destination.host: no service has the host gone.shop.svc.cluster.local; requests get 503";
    assert_eq!((&answer["allowed"], &answer["warnings"]), (&json!(true), &json!([warning])));
}

#[tokio::test]
async fn a_new_object_is_the_youngest() {
    let mut second = right();
    second["spec"]["hosts"] = json!(["reviews"]);
    let answer = Webhook::on(engine(SHOP)).asked(create(second)).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("is routed by VirtualService/shop/old too"), "{answer}");
}

#[tokio::test]
async fn what_slipped_in_can_be_labelled_and_deleted() {
    let webhook = Webhook::on(engine(SHOP));
    let mut labelled = wrong();
    labelled["metadata"]["labels"] = json!({"team": "a"});
    let answer = webhook.asked(update(wrong(), labelled)).await;
    assert_eq!((&answer["allowed"], &answer["warnings"]), (&json!(true), &json!([format!("{WRONG} (not applied)"), DOUBTFUL])));
    let mut leaving = wrong();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(webhook.asked(update(right(), leaving)).await["allowed"], true);
    let deleted = json!({"uid": "u", "operation": "DELETE", "namespace": "shop", "name": "reviews", "object": null, "oldObject": wrong()});
    assert_eq!(webhook.asked(deleted).await["allowed"], true);
}

#[tokio::test]
async fn a_name_that_is_yet_to_be_made_is_none_that_is_missing() {
    let mut object = right();
    object["metadata"] = json!({"generateName": "reviews-"});
    let mut request = create(object);
    request["name"] = json!("");
    assert_eq!(Webhook::on(engine(SHOP)).asked(request).await, json!({"uid": "u", "allowed": true}));
}

#[tokio::test]
async fn kinds_that_are_not_read_pass_with_a_warning_and_unknown_ones_do_not() {
    let webhook = Webhook::on(engine(SHOP));
    let object =
        |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "all", "namespace": "shop"}});
    let answer = webhook.asked(create(object("networking.istio.io/v1", "WorkloadGroup"))).await;
    let warning = "WorkloadGroup/shop/all: is not read by istiod-lite: it has no effect";
    assert_eq!((&answer["allowed"], &answer["warnings"]), (&json!(true), &json!([warning])));
    for (api_version, kind) in [("networking.istio.io/v1", "VirtualServices"), ("v1", "Pod"), ("", "")] {
        let answer = webhook.asked(create(object(api_version, kind))).await;
        assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(422)), "{kind}");
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.contains(kind) && message.contains("is none of Istio's kinds"), "{message}");
    }
    assert!(webhook.metrics().contains("reason=\"unknown_type\"} 3"), "{}", webhook.metrics());
    let unknown_version = webhook.asked(create(object("networking.istio.io/v7", "Gateway"))).await;
    assert!(unknown_version["status"]["message"].as_str().unwrap().contains("known are v1, v1beta1, v1alpha3"), "{unknown_version}");
}

#[tokio::test]
async fn what_would_leave_something_open_is_refused_unless_a_label_says_that_it_is_known() {
    const ALLOWED: &str = "\
---
apiVersion: v1
kind: Namespace
metadata: {name: migrating, labels: {istiod-lite.io/allow-unsupported: 'true'}}
";
    let sidecar = |namespace: &str, labels: Value| {
        let metadata = json!({"name": "all", "namespace": namespace, "labels": labels});
        let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": metadata, "spec": {"outboundTrafficPolicy": {"egressProxy": {"host": "way-out.example.com"}}}});
        Value::Object(create(object).as_object().unwrap().clone().into_iter().chain([("namespace".to_owned(), json!(namespace))]).collect())
    };
    let at = "spec.outboundTrafficPolicy.egressProxy";
    let blocked = "is not supported yet: what would have gone through it is blocked, as with mode REGISTRY_ONLY";
    let label = "label istiod-lite.io/allow-unsupported: \"true\" stores it all the same";
    let webhook = Webhook::on(engine(&format!("{SHOP}{ALLOWED}")));
    // Nor before the first world, as nothing that comes would change it.
    for webhook in [&webhook, &Webhook::on(empty())] {
        let answer = webhook.asked(sidecar("shop", json!({}))).await;
        let message = json!(format!("Sidecar/shop/all {at}: {blocked}; {label}"));
        assert_eq!((&answer["allowed"], &answer["status"]["message"]), (&json!(false), &message));
    }
    let known = json!({"istiod-lite.io/allow-unsupported": "true"});
    for (namespace, labels) in [("shop", known), ("migrating", json!({}))] {
        let answer = webhook.asked(sidecar(namespace, labels)).await;
        let warnings = json!([format!("Sidecar/{namespace}/all {at}: {blocked}")]);
        assert_eq!((&answer["allowed"], &answer["warnings"]), (&json!(true), &warnings));
    }
    let unsure = webhook.asked(sidecar("shop", json!({"istiod-lite.io/allow-unsupported": "yes"}))).await;
    assert_eq!(unsure["allowed"], false);
}

#[tokio::test]
async fn a_policy_that_would_protect_nothing_is_refused_and_one_that_denies_more_passes_with_a_word() {
    let webhook = Webhook::on(engine(SHOP));
    let policy = |spec: Value| {
        let metadata = json!({"name": "guard", "namespace": "shop"});
        create(json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}))
    };
    let rules = json!([{"to": [{"operation": {"paths": ["/a"], "ports": ["9080"]}}]}]);
    for (spec, field) in [
        (json!({"action": "DENY"}), "spec.rules"),
        (json!({"action": "CUSTOM", "provider": {"name": "a"}}), "spec.rules"),
        (json!({"action": "CUSTOM", "rules": rules}), "spec.provider.name"),
        (json!({"action": "DENY", "provider": {"name": "a"}, "rules": rules}), "spec.provider"),
        (
            json!({"action": "CUSTOM", "provider": {"name": "a"}, "rules": [{"from": [{"source": {"namespaces": ["a"]}}]}]}),
            "spec.rules[0].from[0].source",
        ),
        (json!({"action": "BLOCK", "rules": rules}), "spec.action"),
        (json!({"rules": rules, "targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}]}), "spec.targetRefs[0]"),
    ] {
        let answer = webhook.asked(policy(spec.clone())).await;
        let message = answer["status"]["message"].as_str().unwrap_or_default();
        let refused = message.starts_with(&format!("AuthorizationPolicy/shop/guard {field}:"));
        assert!(answer["allowed"] == json!(false) && refused, "{spec}: {answer}");
    }
    for (spec, warning) in [
        (json!({"action": "DENY", "rules": rules}), None),
        (json!({}), Some("spec.rules: are missing: the policy allows nothing, and every request is denied")),
        (json!({"selector": {"matchLabels": {"app": "a"}}, "rules": rules}), Some("spec.selector: no workload has the labels app=a")),
        (json!({"action": "CUSTOM", "provider": {"name": "a"}, "rules": rules}), Some("spec.provider.name: MeshConfig has no")),
    ] {
        let answer = webhook.asked(policy(spec.clone())).await;
        let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
        let said = warnings.first().and_then(Value::as_str).map(|said| said.trim_start_matches("AuthorizationPolicy/shop/guard "));
        let as_expected = said.is_some() == warning.is_some() && said.unwrap_or_default().starts_with(warning.unwrap_or_default());
        assert!(answer["allowed"] == json!(true) && warnings.len() <= 1 && as_expected, "{spec}: {answer}");
    }
}

#[tokio::test]
async fn many_findings_are_cut() {
    let unknown: serde_json::Map<String, Value> = (0..60).map(|number| (format!("x{number}"), json!(1))).collect();
    let mut http = Value::Object(unknown);
    http["route"] = json!([{"destination": {"host": "reviews"}}]);
    let answer = Webhook::on(engine(SHOP)).asked(create(virtual_service(http))).await;
    let warnings = answer["warnings"].as_array().unwrap();
    assert_eq!((warnings.len(), warnings[20].as_str().unwrap()), (21, "31 more findings are not listed"));
}

#[tokio::test]
async fn what_is_no_question_is_a_bad_request() {
    let webhook = Webhook::on(engine(SHOP));
    for body in ["", "{", "{}", r#"{"apiVersion": "v1", "request": {"uid": "u"}}"#] {
        assert_eq!(webhook.post(body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert!(webhook.metrics().contains("galley_validation_http_error{status=\"400\"} 4"), "{}", webhook.metrics());
}

//! Reviews of hostile objects: what they take at their peak, what is said of them, and that good reviews are answered beside them.

use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use super::{good::tls, stage::Stage};

/// What is taken from the budget for a review of an object of 3 MB, and what one may add to the memory of the process.
const MOST_OF_REVIEW: u64 = 60 << 20;

/// How many such reviews come one after the other.
const IN_A_ROW: usize = 40;

/// Fills an object's text up to 3 MB with a piece.
fn filled(begin: &str, piece: &str, end: &str) -> String {
    let room = (3 << 20) - begin.len() - end.len();
    format!("{begin}{}{end}", piece.repeat(room / piece.len()).trim_end_matches(','))
}

pub(crate) fn pod(list: &str, piece: &str) -> String {
    filled(&format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{{"{list}":["#), piece, "]}}")
}

pub(crate) fn virtual_service(list: &str, piece: &str) -> String {
    let begin = r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"a","namespace":"shop"},"spec":{"#;
    filled(&format!(r#"{begin}"hosts":["a"],"{list}":["#), piece, "]}}")
}

pub(crate) fn review(object: &str, old: &str) -> String {
    let head = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","namespace":"shop","name":"a""#;
    let operation = if old == "null" { "CREATE" } else { "UPDATE" };
    format!(r#"{head},"operation":"{operation}","object":{object},"oldObject":{old}}}}}"#)
}

/// A stage, and what its process has in memory when it has answered its first review and rests.
async fn rested() -> (Stage, u64) {
    let stage = Stage::start().await;
    stage.good().review().await.unwrap();
    let idle = stage.cost().resident;
    (stage, idle)
}

/// Returns what a review adds to the memory of an idle process at its peak, in bytes, and the answer. Each has a process of its own:
/// the allocator keeps for ten seconds what reviews before it took, which would count as this one's, or hide what it takes.
async fn added_by(path: &str, body: String) -> (u64, StatusCode, String) {
    let (stage, idle) = rested().await;
    stage.forget_peak();
    let (status, text) = stage.good().post(path, body).await.unwrap();
    (stage.cost().peak.saturating_sub(idle), status, text)
}

#[tokio::test]
async fn whatever_an_object_of_three_megabytes_holds_it_takes_less_than_sixty() {
    let pods = [
        pod("containers", r#"{"name":"a"},"#),
        pod("containers", "{},"),
        pod("volumes", r#"{"name":"a"},"#),
        pod("tolerations", "{},"),
        pod("initContainers", r#"{"name":"a","env":[{"name":"b"}],"ports":[{"containerPort":1}]},"#),
        pod("unknown", "[[]],"),
        pod("unknown", "0,"),
        filled(r#"{"metadata":{"annotations":{"proxy.istio.io/config":""#, "? ", r#""}},"spec":{"containers":[{"name":"a"}]}}"#),
        filled(r#"{"metadata":{"annotations":{"proxy.istio.io/config":""#, "{a: b},", r#""}},"spec":{"containers":[{"name":"a"}]}}"#),
        filled(r#"{"metadata":{"annotations":{"sidecar.istio.io/status":""#, "[", r#""}},"spec":{"containers":[{"name":"a"}]}}"#),
    ];
    let objects = [
        virtual_service("http", r#"{"":0},"#),
        virtual_service("http", "{},"),
        virtual_service("http", r#"{"route":[{"destination":{"host":"a"}}]},"#),
        virtual_service("http", r#"{"match":[{},{},{},{},{},{},{},{}]},"#),
        virtual_service("tls", "[],"),
        virtual_service("gateways", r#""a","#),
        virtual_service("unknown", r#"{"":[0]},"#),
    ];
    let reviews = pods.iter().map(|pod| ("/inject", pod)).chain(objects.iter().map(|object| ("/validate", object)));
    let mut most = 0;
    for (path, object) in reviews {
        for old in ["null", object] {
            let (added, status, text) = added_by(path, review(object, old)).await;
            println!("{path} {}: {} MB: {status} {:.160}", &object[object.len() - 60..], added >> 20, text);
            assert_eq!(status, StatusCode::OK, "{text}");
            assert!(added < MOST_OF_REVIEW, "{} MB for {:.300}", added >> 20, object);
            most = most.max(added);
        }
    }
    println!("at most {} MB", most >> 20);
}

/// What reviews took is there for those after them: the allocator keeps it for some time, and takes no more for each.
#[tokio::test]
async fn many_in_a_row_take_no_more_than_one() {
    let (stage, idle) = rested().await;
    stage.forget_peak();
    let (pod, service) = (pod("containers", r#"{"name":"a"},"#), virtual_service("http", r#"{"":0},"#));
    for number in 0..IN_A_ROW {
        let (path, object) = if number % 2 == 0 { ("/inject", &pod) } else { ("/validate", &service) };
        let old = if number % 4 < 2 { "null" } else { object };
        let (status, text) = stage.good().post(path, review(object, old)).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text:.300}");
        if number % 10 == 0 {
            println!("{number}: {} MB", stage.cost().peak.saturating_sub(idle) >> 20);
        }
    }
    let added = stage.cost().peak.saturating_sub(idle);
    println!("{IN_A_ROW} in a row: {} MB, {} MB stay", added >> 20, stage.cost().resident.saturating_sub(idle) >> 20);
    assert!(added < MOST_OF_REVIEW, "{} MB", added >> 20);
}

#[tokio::test]
async fn an_object_of_three_megabytes_that_means_well_is_answered() {
    let text = "x".repeat(1000);
    let variables: Vec<Value> = (0..2_500).map(|number| json!({"name": format!("V{number}"), "value": text})).collect();
    let containers = json!([{"name": "app", "image": "app", "env": variables}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": containers}}).to_string();
    let (added, status, text) = added_by("/inject", review(&pod, "null")).await;
    assert!(pod.len() > 2_500_000 && status == StatusCode::OK && text.contains("JSONPatch"), "{text:.300}");
    assert!(added < MOST_OF_REVIEW, "{} MB", added >> 20);

    let route = |number: usize| {
        json!({
            "name": format!("route-{number}"), "match": [{"uri": {"regex": format!("/api/v{number}/{}", "[a-z]/".repeat(100))}}],
            "rewrite": {"uri": format!("/{}", "x".repeat(300))}, "route": [{"destination": {"host": "svc-0"}}],
        })
    };
    let spec = json!({"hosts": ["svc-0"], "http": (0..2_000).map(route).collect::<Vec<_>>()});
    let metadata = json!({"name": "a", "namespace": "shop"});
    let service = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": spec}).to_string();
    let (added, status, text) = added_by("/validate", review(&service, "null")).await;
    assert!(service.len() > 1_500_000 && status == StatusCode::OK && text.contains(r#""allowed":true"#), "{text:.300}");
    assert!(added < MOST_OF_REVIEW, "{} MB", added >> 20);
}

#[tokio::test]
async fn what_is_too_large_is_told_so() {
    let stage = Stage::start().await;
    let large = |bytes: usize| review(&format!(r#"{{"kind":"Pod","spec":"{}"}}"#, "x".repeat(bytes)), "null");
    for path in ["/inject", "/validate"] {
        let (status, text) = post_h2(&stage, path, large(8 << 20)).await;
        assert_eq!((status, text.contains("an object may have 3 MB")), (StatusCode::PAYLOAD_TOO_LARGE, true), "{text}");
    }
    let (status, text) = stage.good().post("/inject", large(4 << 20)).await.unwrap();
    assert!(status == StatusCode::OK && text.contains(r#""allowed":false"#) && text.contains("more than the 3 MB"), "{text}");
}

/// Hosts were compared with each other once, which no deadline ended.
#[tokio::test]
async fn an_object_of_many_hosts_is_answered_and_keeps_nobody_waiting() {
    let stage = Stage::start().await;
    let quiet = stage.good().measure().await.unwrap();
    let hosts: Vec<String> = (0..20_000).map(|number| format!("host-{number}.example.com")).collect();
    let to = json!([{"destination": {"host": "svc-0"}}]);
    let spec = json!({"hosts": hosts, "http": [{"route": to}], "tls": [{"match": [{"port": 443, "sniHosts": hosts}], "route": to}]});
    let metadata = json!({"name": "a", "namespace": "shop"});
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": spec}).to_string();
    assert!(object.len() > 900_000, "{}", object.len());
    let attackers: Vec<_> = (0..3)
        .map(|_| {
            let (good, body) = (stage.good(), review(&object, "null"));
            tokio::spawn(async move {
                loop {
                    let (status, text) = good.post("/validate", body.clone()).await.unwrap();
                    assert!(status == StatusCode::OK && text.contains(r#""allowed":true"#), "{status}: {text:.300}");
                }
            })
        })
        .collect();
    let beside = stage.good().measure().await.unwrap();
    let failed = attackers.iter().any(tokio::task::JoinHandle::is_finished);
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
    beside.assert_within(10.0, &quiet, "three callers with VirtualServices of 20,000 hosts");
    assert!(!failed, "a review was not answered");
}

/// Posts as the API server does, by HTTP/2: an answer that comes before the whole body was sent is read.
async fn post_h2(stage: &Stage, path: &str, body: String) -> (StatusCode, String) {
    let stream = TokioIo::new(tls(stage.webhooks(), &stage.root(), "h2").await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("https://istiod{path}")).header(CONTENT_TYPE, "application/json");
    let response = sender.send_request(request.body(Full::new(bytes::Bytes::from(body))).unwrap()).await.unwrap();
    let status = response.status();
    (status, String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned())
}

#[tokio::test]
async fn good_reviews_are_answered_beside_hostile_ones() {
    let (stage, idle) = rested().await;
    let quiet = stage.good().measure().await.unwrap();
    stage.forget_peak();
    let hostile = [("/inject", pod("containers", r#"{"name":"a"},"#)), ("/validate", virtual_service("http", r#"{"":0},"#))];
    let attack = |(path, object): (&'static str, String)| {
        let (good, body) = (stage.good(), review(&object, &object));
        tokio::spawn(async move {
            // As many as are answered: what the machine can do is no matter here.
            loop {
                _ = good.post(path, body.clone()).await;
            }
        })
    };
    let attackers: Vec<_> = (0..4).map(|number| attack(hostile[number % 2].clone())).collect();
    let beside = stage.good().measure().await.unwrap();
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
    beside.assert_within(10.0, &quiet, "four callers with reviews of 6 MB");
    // Both webhooks answer one such review at a time, and the others have sent their bodies.
    let peak = stage.cost().peak - idle;
    println!("at most {} MB", peak >> 20);
    assert!(peak < 4 * MOST_OF_REVIEW, "{} MB", peak >> 20);
}

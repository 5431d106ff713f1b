//! Each fault shows in a metric of its own.

use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;

use super::{
    PATIENCE, Received, SERVICES,
    server::{self, Server, service, virtual_service},
    settings,
};
use crate::source::{Loss, kubernetes::SourceMetrics};

/// Returns what is counted now.
fn counted(metrics: &SourceMetrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

async fn wait_for(metrics: &SourceMetrics, line: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !counted(metrics).lines().any(|found| found == line) {
        assert!(tokio::time::Instant::now() < deadline, "no {line} in\n{}", counted(metrics));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn fault(source: &str, reason: &str, count: u32) -> String {
    format!("istiod_lite_source_faults{{source=\"{source}\",reason=\"{reason}\"}} {count}")
}

#[tokio::test]
async fn faults_are_told_apart() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let settings = settings(&server);
    let metrics = settings.metrics.clone();
    let mut received = Received::with(settings);
    received.until("synced", |received| received.synced).await;
    assert!(!counted(&metrics).contains("istiod_lite_source_faults{"), "{}", counted(&metrics));

    let expired = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n";
    server.say("services", expired.clone());
    wait_for(&metrics, &fault(SERVICES, "expired", 1)).await;

    server.refuse("virtualservices", Some(403));
    server.break_off("virtualservices");
    wait_for(&metrics, &fault("kubernetes/VirtualService", "forbidden", 1)).await;
    server.refuse("virtualservices", None);

    server.refuse("pods", Some(503));
    server.break_off("pods");
    wait_for(&metrics, &fault("kubernetes/Pod", "away", 1)).await;
    server.refuse("pods", None);

    server.become_cluster("another");
    server.break_off("services");
    received.until("held", |received| matches!(received.lost.get(SERVICES), Some((_, Loss::Untrusted)))).await;
    wait_for(&metrics, &fault(SERVICES, "untrusted", 1)).await;
    server.become_cluster(server::OURS);
    received.until("back", |received| received.lost.is_empty()).await;
}

#[tokio::test]
async fn kinds_that_come_late_and_objects_that_are_refused_are_shown() {
    let server = Server::new();
    server.serve_custom(false);
    let settings = settings(&server);
    let metrics = settings.metrics.clone();
    let mut received = Received::with(settings);
    received.until("synced", |received| received.synced).await;
    let served = |version: &str, value: u32| format!("istiod_lite_source_served{{kind=\"VirtualService\",version=\"{version}\"}} {value}");
    wait_for(&metrics, &served("", 0)).await;
    let mut broken = virtual_service("bad", "1");
    broken["spec"]["http"] = json!("no list");
    server.put("virtualservices", broken);
    server.put("virtualservices", virtual_service("good", "1"));
    server.serve_custom(true);
    wait_for(&metrics, &served("v1", 1)).await;
    assert!(!counted(&metrics).contains(&served("", 0)), "{}", counted(&metrics));
    let refused = |count: u32| format!("istiod_lite_source_refused_objects{{source=\"kubernetes/VirtualService\"}} {count}");
    received.until("the good one", |received| received.has("VirtualService/shop/good", "1")).await;
    wait_for(&metrics, &refused(1)).await;
    server.put("virtualservices", virtual_service("bad", "2"));
    wait_for(&metrics, &refused(0)).await;
}

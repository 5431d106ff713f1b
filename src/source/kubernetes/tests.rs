//! The source against an API server in this process, which can do what a real one does not do on demand.

mod counted;
mod scoped;
mod server;

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use smol_str::SmolStr;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use self::server::{Server, service, virtual_service};
use super::{Settings, SourceMetrics, watch};
use crate::source::{Change, Loss, SourceEvent};

const PATIENCE: Duration = Duration::from_secs(60);

/// The events of the source so far.
struct Received {
    events: mpsc::Receiver<SourceEvent>,
    /// The objects that exist, with label `v`, which tells their versions apart.
    objects: BTreeMap<String, String>,
    deleted: Vec<String>,
    applied: usize,
    lost: BTreeMap<SmolStr, (String, Loss)>,
    findings: BTreeMap<SmolStr, Vec<String>>,
    synced: bool,
}

impl Received {
    fn by(server: &Server) -> Self {
        Self::with(settings(server))
    }

    fn with(settings: Settings) -> Self {
        Self {
            events: watch(settings, None),
            objects: BTreeMap::new(),
            deleted: Vec::new(),
            applied: 0,
            lost: BTreeMap::new(),
            findings: BTreeMap::new(),
            synced: false,
        }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let Ok(event) = timeout_at(deadline, self.events.recv()).await else {
                panic!("{what}: not in time; objects {:?}, lost {:?}, findings {:?}", self.objects, self.lost, self.findings)
            };
            self.take(event.expect("the source ended"));
        }
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => changes.into_iter().for_each(|change| self.change(change)),
            SourceEvent::Synced => self.synced = true,
            SourceEvent::Diagnostics { source, findings } => {
                _ = self.findings.insert(source, findings.iter().map(ToString::to_string).collect());
            }
            SourceEvent::Lost { source, reason, loss } => _ = self.lost.insert(source, (reason, loss)),
            SourceEvent::Recovered { source } => _ = self.lost.remove(&source),
            SourceEvent::Locations(_) => {}
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Applied(object) => {
                self.applied += 1;
                let received = object.metadata.labels.get("v").map(ToString::to_string).unwrap_or_default();
                self.objects.insert(object.key.to_string(), received);
            }
            Change::Deleted(key) => {
                self.objects.remove(&key.to_string());
                self.deleted.push(key.to_string());
            }
        }
    }

    fn has(&self, object: &str, version: &str) -> bool {
        self.objects.get(object).is_some_and(|received| received == version)
    }
}

fn settings(server: &Server) -> Settings {
    Settings {
        client: server.client(),
        cluster: "Kubernetes".into(),
        namespace: "istio-system".into(),
        revision: "default".into(),
        watch_namespaces: Vec::new(),
        shared_mesh_config: None,
        metrics: SourceMetrics::default(),
    }
}

const SERVICES: &str = "kubernetes/Service";

#[tokio::test]
async fn all_kinds_are_listed_before_it_is_synced_and_then_followed() {
    let server = Server::new();
    (0..7).for_each(|n| server.put("services", service(&format!("s{n}"), "1")));
    server.page(3);
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    assert_eq!(received.objects.keys().filter(|key| key.starts_with("Service/")).count(), 7, "{:?}", received.objects);
    server.put("services", service("s3", "2"));
    server.remove("services", "s4");
    server.put("virtualservices", virtual_service("v", "1"));
    let followed = |received: &Received| {
        received.has("Service/shop/s3", "2") && received.has("VirtualService/shop/v", "1") && !received.deleted.is_empty()
    };
    received.until("followed", followed).await;
    assert_eq!(received.deleted, ["Service/shop/s4"]);
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_compared_with_a_list() {
    let server = Server::new();
    for name in ["kept", "changed", "gone"] {
        server.put("services", service(name, "1"));
    }
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    let applied = received.applied;
    server.silently(|server| {
        server.put("services", service("changed", "2"));
        server.remove("services", "gone");
        server.put("services", service("new", "1"));
    });
    server.say("services", json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n");
    received.until("compared", |received| received.has("Service/shop/new", "1") && received.has("Service/shop/changed", "2")).await;
    assert_eq!(
        (received.applied - applied, &received.deleted[..]),
        (2, &["Service/shop/gone".to_owned()][..]),
        "what is unchanged is no change"
    );
}

#[tokio::test]
async fn a_bookmark_moves_the_place_from_which_a_watch_goes_on() {
    let server = Server::new();
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    server.say("services", json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "777"}}}).to_string() + "\n");
    server.say("services", json!({"type": "ADDED", "object": service("a", "1")}).to_string() + "\n");
    received.until("after the bookmark", |received| received.has("Service/shop/a", "1")).await;
    server.break_off("services");
    let deadline = Instant::now() + PATIENCE;
    while server.watched_from("services").last().is_none_or(|from| from != "777") {
        assert!(Instant::now() < deadline, "watched from {:?}", server.watched_from("services"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(received.deleted.is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_or_talks_rubbish_loses_nothing() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    server.say("services", "{\"type\":\"MODIF".into());
    server.break_off("services");
    server.silently(|server| server.put("services", service("a", "2")));
    server.replay("services");
    received.until("after the break", |received| received.has("Service/shop/a", "2")).await;
    server.silently(|server| server.put("services", service("a", "3")));
    server.say("services", "<html>502</html>\n".into());
    received.until("after rubbish", |received| received.has("Service/shop/a", "3")).await;
    assert!(received.deleted.is_empty());
}

#[tokio::test]
async fn one_object_that_cannot_be_read_hurts_only_itself() {
    let server = Server::new();
    server.put("virtualservices", virtual_service("good", "1"));
    server.put("virtualservices", virtual_service("bad", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    let mut broken = virtual_service("bad", "2");
    broken["spec"]["http"] = json!("no list");
    server.put("virtualservices", broken);
    server.put("virtualservices", virtual_service("good", "2"));
    let findings = |received: &Received| received.findings.get("kubernetes/VirtualService").cloned().unwrap_or_default();
    received.until("the good one", |received| received.has("VirtualService/shop/good", "2")).await;
    received
        .until("the finding", |received| findings(received).iter().any(|found| found.contains("VirtualService/shop/bad spec.http")))
        .await;
    assert!(received.has("VirtualService/shop/bad", "1"), "its last good content stays: {:?}", received.objects);
    server.put("virtualservices", virtual_service("bad", "3"));
    received.until("mended", |received| received.has("VirtualService/shop/bad", "3") && findings(received).is_empty()).await;
}

#[tokio::test]
async fn an_object_that_was_never_good_leaves_what_it_closes() {
    let server = Server::new();
    let policy =
        |mode: &str, v: &str| json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"v": v}}, "spec": {"mtls": {"mode": mode}}});
    server.put("peerauthentications", policy("STRCT", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    let findings = |received: &Received| received.findings.get("kubernetes/PeerAuthentication").cloned().unwrap_or_default();
    assert!(received.has("PeerAuthentication/shop/a", "1"), "what holds of it: {:?}", received.objects);
    received.until("both findings", |received| findings(received).len() == 2).await;
    assert!(findings(&received)[1].contains("PeerAuthentication/shop/a spec: no good version"), "{:?}", findings(&received));
    server.put("peerauthentications", policy("STRIKT", "2"));
    received.until("the next one", |received| received.has("PeerAuthentication/shop/a", "2")).await;
    server.put("peerauthentications", policy("STRICT", "3"));
    received.until("mended", |received| received.has("PeerAuthentication/shop/a", "3") && findings(received).is_empty()).await;
    server.put("peerauthentications", policy("STRCT", "4"));
    received.until("the mistake alone", |received| findings(received).len() == 1).await;
    assert!(received.has("PeerAuthentication/shop/a", "3"), "now a good version is known: {:?}", received.objects);
}

#[tokio::test]
async fn a_right_that_is_taken_away_holds_its_kind_alone() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    server.refuse("services", Some(403));
    server.break_off("services");
    received.until("lost", |received| received.lost.get(SERVICES).is_some_and(|(why, _)| why.contains("403"))).await;
    server.put("virtualservices", virtual_service("v", "1"));
    server.silently(|server| server.put("services", service("a", "2")));
    received.until("others go on", |received| received.has("VirtualService/shop/v", "1")).await;
    assert!(received.has("Service/shop/a", "1") && received.deleted.is_empty());
    server.refuse("services", None);
    server.replay("services");
    received.until("given back", |received| received.has("Service/shop/a", "2") && received.lost.is_empty()).await;
}

#[tokio::test]
async fn it_is_not_synced_while_a_kind_cannot_be_listed() {
    let server = Server::new();
    server.refuse("services", Some(403));
    let mut received = Received::by(&server);
    received.until("lost", |received| received.lost.contains_key(SERVICES)).await;
    assert!(!received.synced);
    server.refuse("services", None);
    received.until("synced", |received| received.synced && received.lost.is_empty()).await;
}

#[tokio::test]
async fn another_cluster_is_not_believed() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    server.become_cluster("another");
    server.silently(|server| server.remove("services", "a"));
    server.say("services", json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n");
    received.until("held", |received| matches!(received.lost.get(SERVICES), Some((_, Loss::Untrusted)))).await;
    assert!(received.lost[SERVICES].0.contains("another cluster"), "{:?}", received.lost);
    assert!(received.deleted.is_empty() && received.has("Service/shop/a", "1"));
    server.silently(|server| server.put("services", service("a", "2")));
    server.become_cluster(server::OURS);
    received.until("back", |received| received.has("Service/shop/a", "2") && !received.lost.contains_key(SERVICES)).await;
    assert!(received.deleted.is_empty());
}

#[tokio::test]
async fn an_older_state_of_the_cluster_is_not_believed() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    let before = server.set_version(5);
    server.silently(|server| server.remove("services", "a"));
    server.say("services", json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n");
    received.until("held", |received| matches!(received.lost.get(SERVICES), Some((_, Loss::Untrusted)))).await;
    assert!(received.lost[SERVICES].0.contains("older state"), "{:?}", received.lost);
    assert!(received.deleted.is_empty());
    server.set_version(before + 10);
    received.until("back", |received| received.deleted == ["Service/shop/a"] && !received.lost.contains_key(SERVICES)).await;
}

#[tokio::test]
async fn a_list_whose_next_page_expired_is_begun_again() {
    let server = Server::new();
    (0..7).for_each(|n| server.put("services", service(&format!("s{n}"), "1")));
    server.page(3);
    server.expire_next_page("services");
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    assert_eq!(received.objects.keys().filter(|key| key.starts_with("Service/")).count(), 7, "{:?}", received.objects);
}

#[tokio::test]
async fn a_kind_may_come_and_go() {
    let server = Server::new();
    server.serve_custom(false);
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    server.put("virtualservices", virtual_service("v", "1"));
    server.serve_custom(true);
    received.until("it came", |received| received.has("VirtualService/shop/v", "1")).await;
    // A 404 alone takes nothing away: only when discovery says so too.
    server.refuse("virtualservices", Some(404));
    server.break_off("virtualservices");
    received.until("not found", |received| received.lost.contains_key("kubernetes/VirtualService")).await;
    assert!(received.deleted.is_empty());
    server.serve_custom(false);
    received.until("it went", |received| received.deleted == ["VirtualService/shop/v"]).await;
}

#[tokio::test]
async fn old_versions_are_read_and_left_without_loss() {
    let server = Server::new();
    server.serve_custom_as("v1alpha3");
    server.put("virtualservices", virtual_service("v", "1"));
    let mut received = Received::by(&server);
    received.until("synced", |received| received.synced).await;
    assert!(received.has("VirtualService/shop/v", "1"), "{:?}", received.objects);
    for (version, now) in [("v1beta1", "2"), ("v1", "3")] {
        server.serve_custom_as(version);
        server.break_off("virtualservices");
        server.silently(|server| server.put("virtualservices", virtual_service("v", now)));
        received.until(version, |received| received.has("VirtualService/shop/v", now) && received.lost.is_empty()).await;
    }
    assert!(received.deleted.is_empty(), "{:?}", received.deleted);
}

#[tokio::test]
async fn objects_of_another_revision_are_not_read() {
    let server = Server::new();
    let labelled = |name: &str, revision: &str| {
        let mut object = virtual_service(name, "1");
        object["metadata"]["labels"]["istio.io/rev"] = revision.into();
        object
    };
    server.put("virtualservices", labelled("ours", "canary"));
    server.put("virtualservices", labelled("other", "stable"));
    let mut received = Received::with(Settings { revision: "canary".into(), ..settings(&server) });
    received.until("synced", |received| received.synced).await;
    assert!(
        received.has("VirtualService/shop/ours", "1") && !received.objects.contains_key("VirtualService/shop/other"),
        "{:?}",
        received.objects
    );
    server.put("virtualservices", labelled("ours", "stable"));
    received.until("given away", |received| received.deleted == ["VirtualService/shop/ours"]).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    server.refuse_all(Some(503));
    let mut received = Received::by(&server);
    received.until("lost", |received| received.lost.contains_key("kubernetes/Namespace")).await;
    server.refuse_all(None);
    received.until("synced", |received| received.synced && received.lost.is_empty() && received.has("Service/shop/a", "1")).await;
}

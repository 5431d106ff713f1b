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

/// What the source has said so far.
struct Told {
    events: mpsc::Receiver<SourceEvent>,
    /// Objects that stand, with the host or port that tells their versions apart.
    objects: BTreeMap<String, String>,
    deleted: Vec<String>,
    applied: usize,
    lost: BTreeMap<SmolStr, (String, Loss)>,
    findings: BTreeMap<SmolStr, Vec<String>>,
    synced: bool,
}

impl Told {
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
                let told = object.metadata.labels.get("v").map(ToString::to_string).unwrap_or_default();
                self.objects.insert(object.key.to_string(), told);
            }
            Change::Deleted(key) => {
                self.objects.remove(&key.to_string());
                self.deleted.push(key.to_string());
            }
        }
    }

    fn has(&self, object: &str, version: &str) -> bool {
        self.objects.get(object).is_some_and(|told| told == version)
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
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    assert_eq!(told.objects.keys().filter(|key| key.starts_with("Service/")).count(), 7, "{:?}", told.objects);
    server.put("services", service("s3", "2"));
    server.remove("services", "s4");
    server.put("virtualservices", virtual_service("v", "1"));
    told.until("followed", |told| told.has("Service/shop/s3", "2") && told.has("VirtualService/shop/v", "1")).await;
    assert_eq!(told.deleted, ["Service/shop/s4"]);
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_compared_with_a_list() {
    let server = Server::new();
    for name in ["kept", "changed", "gone"] {
        server.put("services", service(name, "1"));
    }
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    let applied = told.applied;
    server.silently(|server| {
        server.put("services", service("changed", "2"));
        server.remove("services", "gone");
        server.put("services", service("new", "1"));
    });
    server.say("services", json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n");
    told.until("compared", |told| told.has("Service/shop/new", "1") && told.has("Service/shop/changed", "2")).await;
    assert_eq!((told.applied - applied, &told.deleted[..]), (2, &["Service/shop/gone".to_owned()][..]), "what is unchanged is no change");
}

#[tokio::test]
async fn a_bookmark_moves_the_place_from_which_a_watch_goes_on() {
    let server = Server::new();
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    server.say("services", json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "777"}}}).to_string() + "\n");
    server.say("services", json!({"type": "ADDED", "object": service("a", "1")}).to_string() + "\n");
    told.until("after the bookmark", |told| told.has("Service/shop/a", "1")).await;
    server.break_off("services");
    let deadline = Instant::now() + PATIENCE;
    while server.watched_from("services").last().is_none_or(|from| from != "777") {
        assert!(Instant::now() < deadline, "watched from {:?}", server.watched_from("services"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told.deleted.is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_or_talks_rubbish_loses_nothing() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    server.say("services", "{\"type\":\"MODIF".into());
    server.break_off("services");
    server.silently(|server| server.put("services", service("a", "2")));
    server.replay("services");
    told.until("after the break", |told| told.has("Service/shop/a", "2")).await;
    server.silently(|server| server.put("services", service("a", "3")));
    server.say("services", "<html>502</html>\n".into());
    told.until("after rubbish", |told| told.has("Service/shop/a", "3")).await;
    assert!(told.deleted.is_empty());
}

#[tokio::test]
async fn one_object_that_cannot_be_read_hurts_only_itself() {
    let server = Server::new();
    server.put("virtualservices", virtual_service("good", "1"));
    server.put("virtualservices", virtual_service("bad", "1"));
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    let mut broken = virtual_service("bad", "2");
    broken["spec"]["http"] = json!("no list");
    server.put("virtualservices", broken);
    server.put("virtualservices", virtual_service("good", "2"));
    let findings = |told: &Told| told.findings.get("kubernetes/VirtualService").cloned().unwrap_or_default();
    told.until("the good one", |told| told.has("VirtualService/shop/good", "2")).await;
    told.until("the finding", |told| findings(told).iter().any(|found| found.contains("VirtualService/shop/bad spec.http"))).await;
    assert!(told.has("VirtualService/shop/bad", "1"), "its last good content stays: {:?}", told.objects);
    server.put("virtualservices", virtual_service("bad", "3"));
    told.until("mended", |told| told.has("VirtualService/shop/bad", "3") && findings(told).is_empty()).await;
}

#[tokio::test]
async fn a_right_that_is_taken_away_holds_its_kind_alone() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    server.refuse("services", Some(403));
    server.break_off("services");
    told.until("lost", |told| told.lost.get(SERVICES).is_some_and(|(why, _)| why.contains("403"))).await;
    server.put("virtualservices", virtual_service("v", "1"));
    server.silently(|server| server.put("services", service("a", "2")));
    told.until("others go on", |told| told.has("VirtualService/shop/v", "1")).await;
    assert!(told.has("Service/shop/a", "1") && told.deleted.is_empty());
    server.refuse("services", None);
    server.replay("services");
    told.until("given back", |told| told.has("Service/shop/a", "2") && told.lost.is_empty()).await;
}

#[tokio::test]
async fn it_is_not_synced_while_a_kind_cannot_be_listed() {
    let server = Server::new();
    server.refuse("services", Some(403));
    let mut told = Told::by(&server);
    told.until("lost", |told| told.lost.contains_key(SERVICES)).await;
    assert!(!told.synced);
    server.refuse("services", None);
    told.until("synced", |told| told.synced && told.lost.is_empty()).await;
}

#[tokio::test]
async fn another_cluster_is_not_believed() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    server.become_cluster("another");
    server.silently(|server| server.remove("services", "a"));
    server.say("services", json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n");
    told.until("held", |told| matches!(told.lost.get(SERVICES), Some((_, Loss::Untrusted)))).await;
    assert!(told.lost[SERVICES].0.contains("another cluster"), "{:?}", told.lost);
    assert!(told.deleted.is_empty() && told.has("Service/shop/a", "1"));
    server.silently(|server| server.put("services", service("a", "2")));
    server.become_cluster(server::OURS);
    told.until("back", |told| told.has("Service/shop/a", "2") && !told.lost.contains_key(SERVICES)).await;
    assert!(told.deleted.is_empty());
}

#[tokio::test]
async fn an_older_state_of_the_cluster_is_not_believed() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    let before = server.set_version(5);
    server.silently(|server| server.remove("services", "a"));
    server.say("services", json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).to_string() + "\n");
    told.until("held", |told| matches!(told.lost.get(SERVICES), Some((_, Loss::Untrusted)))).await;
    assert!(told.lost[SERVICES].0.contains("older state"), "{:?}", told.lost);
    assert!(told.deleted.is_empty());
    server.set_version(before + 10);
    told.until("back", |told| told.deleted == ["Service/shop/a"] && !told.lost.contains_key(SERVICES)).await;
}

#[tokio::test]
async fn a_list_whose_next_page_expired_is_begun_again() {
    let server = Server::new();
    (0..7).for_each(|n| server.put("services", service(&format!("s{n}"), "1")));
    server.page(3);
    server.expire_next_page("services");
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    assert_eq!(told.objects.keys().filter(|key| key.starts_with("Service/")).count(), 7, "{:?}", told.objects);
}

#[tokio::test]
async fn a_kind_may_come_and_go() {
    let server = Server::new();
    server.serve_custom(false);
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    server.put("virtualservices", virtual_service("v", "1"));
    server.serve_custom(true);
    told.until("it came", |told| told.has("VirtualService/shop/v", "1")).await;
    // A 404 alone takes nothing away: only when discovery says so too.
    server.refuse("virtualservices", Some(404));
    server.break_off("virtualservices");
    told.until("not found", |told| told.lost.contains_key("kubernetes/VirtualService")).await;
    assert!(told.deleted.is_empty());
    server.serve_custom(false);
    told.until("it went", |told| told.deleted == ["VirtualService/shop/v"]).await;
}

#[tokio::test]
async fn old_versions_are_read_and_left_without_loss() {
    let server = Server::new();
    server.serve_custom_as("v1alpha3");
    server.put("virtualservices", virtual_service("v", "1"));
    let mut told = Told::by(&server);
    told.until("synced", |told| told.synced).await;
    assert!(told.has("VirtualService/shop/v", "1"), "{:?}", told.objects);
    for (version, now) in [("v1beta1", "2"), ("v1", "3")] {
        server.serve_custom_as(version);
        server.break_off("virtualservices");
        server.silently(|server| server.put("virtualservices", virtual_service("v", now)));
        told.until(version, |told| told.has("VirtualService/shop/v", now) && told.lost.is_empty()).await;
    }
    assert!(told.deleted.is_empty(), "{:?}", told.deleted);
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
    let mut told = Told::with(Settings { revision: "canary".into(), ..settings(&server) });
    told.until("synced", |told| told.synced).await;
    assert!(told.has("VirtualService/shop/ours", "1") && !told.objects.contains_key("VirtualService/shop/other"), "{:?}", told.objects);
    server.put("virtualservices", labelled("ours", "stable"));
    told.until("given away", |told| told.deleted == ["VirtualService/shop/ours"]).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let server = Server::new();
    server.put("services", service("a", "1"));
    server.refuse_all(Some(503));
    let mut told = Told::by(&server);
    told.until("lost", |told| told.lost.contains_key("kubernetes/Namespace")).await;
    server.refuse_all(None);
    told.until("synced", |told| told.synced && told.lost.is_empty() && told.has("Service/shop/a", "1")).await;
}

//! Campaigns against an API server in the process that can hang, refuse, and be late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;

const SERVES: u8 = 0;
const HANGS: u8 = 1;
const REFUSES: u8 = 2;

#[derive(Default)]
struct Leases {
    mode: AtomicU8,
    version: AtomicU64,
    lease: Mutex<Option<Value>>,
}

type Shared = State<Arc<Leases>>;

impl Leases {
    fn client(self: &Arc<Self>) -> Client {
        let path = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases";
        let router = Router::new()
            .route(path, get(|| async {}).post(Self::create))
            .route(&format!("{path}/{{name}}"), get(Self::read).put(Self::replace))
            .with_state(Arc::clone(self));
        Client::new(router, "istio-system")
    }

    async fn pass(&self) -> Result<(), Response> {
        match self.mode.load(SeqCst) {
            HANGS => std::future::pending().await,
            REFUSES => Err(failure(StatusCode::FORBIDDEN)),
            _ => Ok(()),
        }
    }

    fn stored(&self, mut lease: Value) -> Response {
        lease["metadata"]["resourceVersion"] = json!(self.version.fetch_add(1, SeqCst).to_string());
        *self.lease.lock() = Some(lease.clone());
        Json(lease).into_response()
    }

    async fn read(State(leases): Shared, Path(_): Path<String>) -> Result<Response, Response> {
        leases.pass().await?;
        leases.lease.lock().clone().map(|lease| Json(lease).into_response()).ok_or_else(|| failure(StatusCode::NOT_FOUND))
    }

    async fn create(State(leases): Shared, Json(lease): Json<Value>) -> Result<Response, Response> {
        leases.pass().await?;
        let exists = leases.lease.lock().is_some();
        if exists { Err(failure(StatusCode::CONFLICT)) } else { Ok(leases.stored(lease)) }
    }

    async fn replace(State(leases): Shared, Path(_): Path<String>, Json(lease): Json<Value>) -> Result<Response, Response> {
        leases.pass().await?;
        let known = leases.lease.lock().as_ref().map(|known| known["metadata"]["resourceVersion"].clone());
        match known == Some(lease["metadata"]["resourceVersion"].clone()) {
            true => Ok(leases.stored(lease)),
            false => Err(failure(StatusCode::CONFLICT)),
        }
    }

    fn holder(&self) -> String {
        self.lease.lock().as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned)).unwrap_or_default()
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

struct Runner {
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
    campaign: tokio::task::JoinHandle<()>,
}

fn run(leases: &Arc<Leases>, identity: &str) -> Runner {
    let election = Election {
        client: leases.client(),
        namespace: "istio-system".into(),
        name: "lease".into(),
        identity: identity.into(),
        timing: Timing { lease: Duration::from_secs(2), renew: Duration::from_secs(1), retry: Duration::from_millis(50) },
        clock: Arc::new(Timestamp::now),
        metrics: ControllerMetrics::default(),
    };
    let stop = CancellationToken::new();
    let (leads, campaign) = election.start(stop.clone());
    Runner { leads, stop, campaign: tokio::spawn(campaign) }
}

impl Runner {
    async fn wait(&mut self, leads: bool) {
        let seen = tokio::time::timeout(Duration::from_secs(30), self.leads.wait_for(|now| *now == leads)).await;
        assert!(matches!(seen, Ok(Ok(_))), "it never became {leads}");
    }
}

#[tokio::test]
async fn one_leads_and_lets_go_when_it_is_stopped() {
    let leases = Arc::new(Leases::default());
    let (mut a, mut b) = (run(&leases, "a"), run(&leases, "b"));
    tokio::select! {
        () = a.wait(true) => {}
        () = b.wait(true) => {}
    }
    let (first, mut second) = if *a.leads.borrow() { (a, b) } else { (b, a) };
    assert!(!*second.leads.borrow(), "both lead");
    first.stop.cancel();
    first.campaign.await.unwrap();
    assert!(!*first.leads.borrow());
    second.wait(true).await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_steps_down_and_comes_back() {
    for trouble in [HANGS, REFUSES] {
        let leases = Arc::new(Leases::default());
        let mut a = run(&leases, "a");
        a.wait(true).await;
        leases.mode.store(trouble, SeqCst);
        a.wait(false).await;
        assert_eq!(leases.holder(), "a", "it could not release what it cannot reach");
        leases.mode.store(SERVES, SeqCst);
        a.wait(true).await;
        a.stop.cancel();
        a.campaign.await.unwrap();
        assert_eq!(leases.holder(), "");
    }
}

#[tokio::test]
async fn the_slower_of_two_writers_does_not_lead() {
    let leases = Arc::new(Leases::default());
    let mut a = run(&leases, "a");
    a.wait(true).await;
    // Another took the Lease between our reading and writing.
    let mut taken = leases.lease.lock().clone().unwrap();
    taken["spec"]["holderIdentity"] = json!("b");
    leases.stored(taken);
    a.wait(false).await;
    assert_eq!(leases.holder(), "b");
    a.stop.cancel();
    a.campaign.await.unwrap();
    assert_eq!(leases.holder(), "b", "it releases only its own");
}

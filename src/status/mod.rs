//! What users see with kubectl of the objects that they wrote: Events, and a condition in `status` where the kind has one.
//!
//! Both say what is said in the log and under `/debug/diagnostics`, and what connected proxies refuse. One replica writes:
//! the leader. Nothing that is written here comes back as a change, as sources read neither `status` nor Events.

mod agenda;
mod condition;
mod event;
mod report;
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;
use prometheus_client::{metrics::family::Family, registry::Registry};
use smol_str::SmolStr;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    agenda::{Agenda, Task},
    report::{Report, reports},
    server::{Seen, Server, Trouble},
};
use crate::{
    api::{Diagnostic, Kind, ObjectKey},
    metrics::ExactCounter,
    xds::ledger::Ledger,
};

/// How often it is looked for what proxies refuse.
const LOOK: Duration = Duration::from_secs(2);
/// Objects are written about one after the other, so far apart: the API server has other callers.
const PACE: Duration = Duration::from_millis(100);
/// So many Events at a time about one object; the condition has all.
const MOST_EVENTS: usize = 5;

/// Who writes, and where.
#[derive(Clone)]
pub struct Settings {
    /// Asks the API server.
    pub client: Client,
    /// The cluster that it serves: objects of others are not written about.
    pub cluster: SmolStr,
    /// The namespace of this control plane, with ConfigMap `istio`.
    pub namespace: SmolStr,
    /// Its revision; empty or `default` for the one without a name. Others have a condition of their own.
    pub revision: SmolStr,
    /// What Events name as their reporter; the pod's name.
    pub instance: String,
    /// For times that are written.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What is written about.
pub struct Inputs {
    /// The findings that stand.
    pub findings: watch::Receiver<Arc<Vec<Diagnostic>>>,
    /// What proxies refuse.
    pub ledger: Arc<Ledger>,
    /// Whether this replica is the one that writes.
    pub leader: watch::Receiver<bool>,
}

/// Counts what is written.
#[derive(Clone, Debug, Default)]
pub struct StatusMetrics {
    writes: Family<[(&'static str, &'static str); 2], ExactCounter>,
}

/// Writes until `shutdown`. Losing the API server, or a right, loses nothing: what could not be written is tried again.
pub async fn run(settings: Settings, inputs: Inputs, metrics: StatusMetrics, shutdown: CancellationToken) {
    let writer = Writer { server: Server::new(&settings), settings, metrics, troubled: AtomicBool::default() };
    tokio::select! {
        () = writer.run(inputs) => {}
        () = shutdown.cancelled() => {}
    }
}

struct Writer {
    server: Server,
    settings: Settings,
    metrics: StatusMetrics,
    /// Whether the last attempt failed.
    troubled: AtomicBool,
}

impl Writer {
    async fn run(self, mut inputs: Inputs) {
        loop {
            if inputs.leader.wait_for(|leader| *leader).await.is_err() {
                return;
            }
            let Inputs { findings, ledger, leader } = &mut inputs;
            tokio::select! {
                () = self.lead(findings, ledger) => return,
                () = lost(leader) => {}
            }
        }
    }

    /// Writes for as long as this replica leads; what the leader before wrote is taken over.
    async fn lead(&self, findings: &mut watch::Receiver<Arc<Vec<Diagnostic>>>, ledger: &Ledger) {
        let mut agenda = Agenda::default();
        self.adopt(&mut agenda).await;
        let mut look = tokio::time::interval(LOOK);
        findings.mark_changed();
        let mut refused = Vec::new();
        let mut stand = Arc::default();
        loop {
            tokio::select! {
                changed = findings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    stand = Arc::clone(&findings.borrow_and_update());
                    agenda.want(reports(&stand, &refused, &self.settings.cluster), Instant::now());
                }
                _ = look.tick() => {
                    let now = ledger.refusals();
                    if now != refused {
                        refused = now;
                        agenda.want(reports(&stand, &refused, &self.settings.cluster), Instant::now());
                    }
                }
                () = until(agenda.when()) => {
                    if let Some((key, task)) = agenda.next(Instant::now()) {
                        self.carry_out(&mut agenda, key, task).await;
                        sleep(PACE).await;
                    }
                }
            }
        }
    }

    /// Objects that bear a condition of ours which says that something is wrong: perhaps it no longer is.
    async fn adopt(&self, agenda: &mut Agenda) {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_istio()) {
            match self.server.conditioned(kind).await {
                Ok(found) => found.into_iter().for_each(|key| agenda.adopt(key, Instant::now())),
                Err(trouble) => tracing::warn!(kind = kind.as_str(), %trouble, "conditions of an earlier leader are not taken over"),
            }
        }
    }

    async fn carry_out(&self, agenda: &mut Agenda, key: ObjectKey, task: Task) {
        match self.write(&key, &task).await {
            Ok(told) => {
                self.troubled.store(false, Ordering::Relaxed);
                agenda.done(key, &task, told, Instant::now());
            }
            Err(trouble) => {
                self.tell_of(&key, &trouble);
                agenda.failed(key, Instant::now());
            }
        }
    }

    // Once: what keeps us from writing about one object mostly does so for all.
    fn tell_of(&self, key: &ObjectKey, trouble: &Trouble) {
        let message = "its status is not written; tried again until it is";
        match self.troubled.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(object = %key, %trouble, message),
            true => tracing::debug!(object = %key, %trouble, message),
        }
    }

    /// Writes what there is to say; gives the lines that Events tell of now.
    async fn write(&self, key: &ObjectKey, task: &Task) -> Result<Vec<report::Line>, Trouble> {
        let Some(seen) = self.server.get(key).await? else { return Ok(Vec::new()) };
        let report = task.report.as_ref();
        let mended = report.is_none() && self.stands_wrong(&seen, task);
        if report.is_some() || mended {
            self.write_condition(key, &seen, report.unwrap_or(&Report::accepted())).await?;
        }
        let lines: Vec<report::Line> = task.untold(MOST_EVENTS);
        for line in &lines {
            self.write_event(key, &seen, line).await?;
        }
        if mended {
            self.write_event(key, &seen, &report::Line::mended()).await?;
        }
        Ok(lines)
    }

    /// Whether somebody was told that the object is wrong.
    fn stands_wrong(&self, seen: &Seen, task: &Task) -> bool {
        task.was_told || condition::complains(&seen.status, &self.server.condition)
    }

    async fn write_condition(&self, key: &ObjectKey, seen: &Seen, report: &Report) -> Result<(), Trouble> {
        if !key.kind.is_istio() {
            return Ok(());
        }
        let now = (self.settings.clock)();
        let Some(status) = condition::status(&self.server.condition, seen, report, now) else { return Ok(()) };
        let written = self.server.apply_status(key, seen, status).await;
        self.count("condition", &written);
        written
    }

    async fn write_event(&self, key: &ObjectKey, seen: &Seen, line: &report::Line) -> Result<(), Trouble> {
        let event = event::event(key, seen, line, &self.settings);
        let written = self.server.post_event(&event, (self.settings.clock)()).await;
        self.count("event", &written);
        written
    }

    fn count(&self, what: &'static str, written: &Result<(), Trouble>) {
        let result = if written.is_ok() { "written" } else { "failed" };
        self.metrics.writes.get_or_create(&[("what", what), ("result", result)]).inc();
    }
}

impl StatusMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("istiod_lite_status_writes", "Conditions and Events about users' objects, by result", self.writes.clone());
    }
}

// When nobody says more of it, the last word holds.
async fn lost(leader: &mut watch::Receiver<bool>) {
    if leader.wait_for(|leader| !leader).await.is_err() {
        std::future::pending().await
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

//! Shows users of kubectl what is wrong with their objects, by Events and by a condition in `status` where the kind has one.
//!
//! Both say what the log and `/debug/diagnostics` say, and what connected proxies refuse. Only the leader writes them.
//! Nothing that is written here comes back as a change, since sources read neither `status` nor Events.

mod api_server;
mod condition;
mod event;
mod object;
mod report;
mod work_queue;

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
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    api_server::{ApiError, ApiServer},
    object::ReadObject,
    report::{Report, reports},
    work_queue::{WorkQueue, Write},
};
use crate::{
    api::{Diagnostic, Kind, ObjectKey},
    metrics::{ExactCounter, MetricLabels},
    timer::until,
    xds::ledger::Refusal,
};

/// The time between two objects, since the API server has other callers.
const PACE: Duration = Duration::from_millis(100);
/// The most Events about an object at a time. The condition has all lines.
const MOST_EVENTS: usize = 5;

/// Which cluster is written to, and in whose name.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The client of the API server.
    pub client: Client,
    /// The cluster of the API server. Objects of other clusters are not written about.
    pub cluster: SmolStr,
    /// The namespace of this control plane, which has ConfigMap `istio`.
    pub namespace: SmolStr,
    /// The revision of this control plane; empty or `default` for the one without a name. Each has a condition of its own.
    pub revision: SmolStr,
    /// The name of the pod, which Events name as their reporter.
    pub instance: String,
    /// Returns the current time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What is written, and whether this replica writes it.
pub(crate) struct Inputs {
    /// All current findings.
    pub findings: watch::Receiver<Arc<Vec<Diagnostic>>>,
    /// The refusals of proxies.
    pub refusals: watch::Receiver<Arc<[Refusal]>>,
    /// Whether this replica is the leader.
    pub leader: watch::Receiver<bool>,
}

/// Counters of what is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusMetrics {
    writes: Family<MetricLabels<2, &'static str>, ExactCounter>,
}

/// Writes until `shutdown`. What cannot be written, for want of the API server or of a right, is tried again.
pub(crate) async fn run(settings: Settings, inputs: Inputs, metrics: StatusMetrics, shutdown: CancellationToken) {
    let writer = Writer { api_server: ApiServer::new(&settings), settings, metrics, failing: AtomicBool::default() };
    tokio::select! {
        () = writer.run(inputs) => {}
        () = shutdown.cancelled() => {}
    }
}

struct Writer {
    api_server: ApiServer,
    settings: Settings,
    metrics: StatusMetrics,
    /// Whether the last write failed.
    failing: AtomicBool,
}

impl Writer {
    async fn run(self, mut inputs: Inputs) {
        loop {
            if inputs.leader.wait_for(|leader| *leader).await.is_err() {
                return;
            }
            let Inputs { findings, refusals, leader } = &mut inputs;
            tokio::select! {
                () = self.lead(findings, refusals) => return,
                () = lost(leader) => {}
            }
        }
    }

    /// Writes as the leader, and takes over what an earlier leader wrote.
    async fn lead(&self, findings: &mut watch::Receiver<Arc<Vec<Diagnostic>>>, refusals: &mut watch::Receiver<Arc<[Refusal]>>) {
        let mut queue = WorkQueue::default();
        self.adopt(&mut queue).await;
        findings.mark_changed();
        loop {
            tokio::select! {
                changed = either(findings.changed(), refusals.changed()) => {
                    if changed.is_err() {
                        return;
                    }
                    let (findings, refusals) = (findings.borrow_and_update(), refusals.borrow_and_update());
                    queue.set_reports(reports(&findings, &refusals, &self.settings.cluster), Instant::now());
                }
                () = until(queue.due()) => {
                    if let Some((key, write)) = queue.next(Instant::now()) {
                        self.carry_out(&mut queue, key, write).await;
                        sleep(PACE).await;
                    }
                }
            }
        }
    }

    /// Adds the objects on which our condition says that something is wrong, as that may no longer be true.
    async fn adopt(&self, queue: &mut WorkQueue) {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.has_status()) {
            match self.api_server.list_complaints(kind).await {
                Ok(found) => found.into_iter().for_each(|key| queue.adopt(key, Instant::now())),
                Err(error) => tracing::warn!(%kind, %error, "conditions of an earlier leader are not taken over"),
            }
        }
    }

    async fn carry_out(&self, queue: &mut WorkQueue, key: ObjectKey, write: Write) {
        match self.write(&key, &write).await {
            Ok(events) => {
                self.failing.store(false, Ordering::Relaxed);
                queue.succeeded(key, &write, events, Instant::now());
            }
            Err(error) => {
                self.log_failure(&key, &error);
                queue.failed(key, Instant::now());
            }
        }
    }

    /// Logs a failure. Only the first of several is a warning, since mostly the same keeps us from writing about any object.
    fn log_failure(&self, key: &ObjectKey, error: &ApiError) {
        let message = "its status is not written; tried again until it is";
        match self.failing.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(object = %key, %error, message),
            true => tracing::debug!(object = %key, %error, message),
        }
    }

    /// Writes about one object, and returns the lines of which there are Events now.
    async fn write(&self, key: &ObjectKey, write: &Write) -> Result<Vec<report::ReportLine>, ApiError> {
        let Some(object) = self.api_server.get(key).await? else { return Ok(Vec::new()) };
        let report = write.report.as_ref();
        let mended = report.is_none() && self.has_complained(&object, write);
        if report.is_some() || mended {
            self.write_condition(key, &object, report.unwrap_or(&Report::accepted())).await?;
        }
        let lines: Vec<report::ReportLine> = write.new_lines(MOST_EVENTS);
        for line in &lines {
            self.write_event(key, &object, line).await?;
        }
        if mended {
            self.write_event(key, &object, &report::ReportLine::mended()).await?;
        }
        Ok(lines)
    }

    /// Returns whether an Event or the condition says that something is wrong.
    fn has_complained(&self, object: &ReadObject, write: &Write) -> bool {
        write.has_events || condition::complains(&object.status, &self.api_server.condition)
    }

    async fn write_condition(&self, key: &ObjectKey, object: &ReadObject, report: &Report) -> Result<(), ApiError> {
        if !key.kind.has_status() {
            return Ok(());
        }
        let now = (self.settings.clock)();
        let Some(status) = condition::status(&self.api_server.condition, object, report, now) else { return Ok(()) };
        let written = self.api_server.apply_status(key, object, status).await;
        self.count("condition", &written);
        written
    }

    async fn write_event(&self, key: &ObjectKey, object: &ReadObject, line: &report::ReportLine) -> Result<(), ApiError> {
        let event = event::event(key, object, line, &self.settings);
        let written = self.api_server.post_event(&event, (self.settings.clock)()).await;
        self.count("event", &written);
        written
    }

    fn count(&self, what: &'static str, written: &Result<(), ApiError>) {
        let result = if written.is_ok() { "written" } else { "failed" };
        self.metrics.writes.get_or_create(&[("what", what), ("result", result)]).inc();
    }
}

impl StatusMetrics {
    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("istiod_lite_status_writes", "Conditions and Events about users' objects, by result", self.writes.clone());
    }
}

/// Completes with the first of two.
async fn either<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    tokio::select! {
        done = one => done,
        done = other => done,
    }
}

/// Completes when this replica is no longer the leader.
async fn lost(leader: &mut watch::Receiver<bool>) {
    if leader.wait_for(|leader| !leader).await.is_err() {
        // Without a sender it stays the leader.
        std::future::pending().await
    }
}

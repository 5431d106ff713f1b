//! The one writer: what sources say becomes the next world, and each new world is published to the classes of proxies.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use jiff::Timestamp;
use smol_str::SmolStr;
use tokio::{sync::watch, time::Instant};
use tokio_stream::{Stream, StreamExt};

use super::{
    convergence::{Convergence, NAMED},
    diagnostics::{Finder, Standing},
    metrics::PipelineMetrics,
    readiness::Readiness,
};
use crate::{
    api::{Kind, Object, ObjectKey},
    mesh::{engine::Engine, validate, world::World},
    source::{Change, Loss, SourceEvent, debounce::Debounce},
    timer::until,
    xds::classes::Classes,
};

/// Readiness condition: all sources have said all that they had.
pub const SYNCED: &str = "sources synced";

/// Readiness condition: what the sources say is about this mesh.
pub const TRUSTED: &str = "sources trusted";

/// All that a batch of changes passes through.
pub struct Pipeline {
    /// Makes worlds.
    pub engine: Engine,
    /// Makes views.
    pub classes: Arc<Classes>,
    /// Gathers changes.
    pub debounce: Debounce,
    /// Shows findings.
    pub standing: Arc<Standing>,
    /// Told when the first world is published.
    pub readiness: Arc<Readiness>,
    /// Told of each published change.
    pub convergence: Arc<Convergence>,
    /// Shows each published world to those who read it beside the flow: authentication, admission, controllers.
    pub worlds: watch::Sender<Arc<World>>,
    /// Counts.
    pub metrics: PipelineMetrics,
    /// The sources that are not to be believed now, and why.
    pub(super) untrusted: BTreeMap<SmolStr, String>,
}

impl Pipeline {
    /// Works until the sources end. Before they are synced nothing is published: half a world would take away what
    /// proxies have from the process before this one.
    pub async fn run(mut self, events: impl Stream<Item = SourceEvent>) {
        let mut events = pin!(events);
        let mut synced = false;
        let mut findings = self.classes.findings();
        loop {
            let due = self.debounce.due().filter(|_| synced);
            tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some(SourceEvent::Synced) => {
                        synced = true;
                        self.publish_all();
                        self.readiness.set(SYNCED, true);
                    }
                    Some(event) => self.take_in(event),
                },
                () = until(due) => self.publish_due(),
                Ok(()) = findings.changed() => {
                    let found = findings.borrow_and_update().clone();
                    self.standing.replace(Finder::Translation, found);
                }
            }
        }
    }

    fn take_in(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => {
                self.metrics.count_events(&changes, |key| self.engine.has(key));
                self.debounce.push(changes, Instant::now());
            }
            SourceEvent::Diagnostics { source, findings } => self.standing.replace(Finder::Source(source), findings),
            SourceEvent::Locations(news) => self.standing.note_locations(news),
            SourceEvent::Lost { source, reason, loss } => {
                tracing::error!(%source, reason, "source lost; what it said is kept");
                self.metrics.set_lost(&source, true);
                self.distrust(source, (loss == Loss::Untrusted).then_some(reason));
            }
            SourceEvent::Recovered { source } => {
                tracing::info!(%source, "source recovered");
                self.metrics.set_lost(&source, false);
                self.distrust(source, None);
            }
            SourceEvent::Synced => {}
        }
    }

    fn distrust(&mut self, source: SmolStr, why: Option<String>) {
        match why {
            Some(why) => _ = self.untrusted.insert(source, why),
            None if self.untrusted.remove(&source).is_none() => return,
            None => {}
        }
        match self.untrusted.values().next() {
            Some(why) => self.readiness.fail(TRUSTED, &format!("{why}; what was known is kept until it is back, or until a restart")),
            None => self.readiness.set(TRUSTED, true),
        }
    }

    // The first world is published even when it is empty: it is then the truth.
    fn publish_all(&mut self) {
        let (changes, since) = self.debounce.take_all().unwrap_or_else(|| (Vec::new(), Instant::now()));
        self.publish(changes, since);
    }

    fn publish_due(&mut self) {
        if let Some((changes, since)) = self.debounce.take(Instant::now()) {
            self.publish(changes, since);
        }
    }

    fn publish(&mut self, changes: Vec<Change>, since: Instant) {
        let started = Instant::now();
        let kinds: Vec<Kind> = changes.iter().map(|change| change.key().kind).collect();
        let named: Vec<ObjectKey> = changes.iter().take(NAMED).map(Change::key).cloned().collect();
        let applied = self.engine.apply(changes.into_iter().map(keyed));
        let making = started.elapsed();
        let world = applied.world;
        let generation = world.generation;
        let now = Timestamp::now();
        let seen = now.checked_sub(since.elapsed()).unwrap_or(now);
        let published = self.classes.prepare(Arc::clone(&world), &applied.touched);
        self.metrics.count_batch(kinds.len(), applied.recomputed, &published, started.elapsed());
        // Convergence is told before the sessions are, else an ACK could come first.
        self.convergence.published(generation, &named, seen, now, published.proxies());
        self.metrics.count_published(&kinds, making, since.elapsed());
        published.send();
        self.worlds.send_replace(Arc::clone(&world));
        // Findings cost what the whole mesh costs: proxies do not wait for them.
        self.standing.replace(Finder::Mesh, validate::check(&world));
    }
}

fn keyed(change: Change) -> (ObjectKey, Option<Arc<Object>>) {
    match change {
        Change::Applied(object) => (object.key.clone(), Some(object)),
        Change::Deleted(key) => (key, None),
    }
}

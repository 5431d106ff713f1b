//! The one writer: what sources say becomes the next world, and each new world is published to the classes of proxies.

use std::{collections::BTreeMap, future::pending, pin::pin, sync::Arc};

use smol_str::SmolStr;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
    task::block_in_place,
    time::Instant,
};
use tokio_stream::{Stream, StreamExt};

use super::{
    convergence::{Convergence, NAMED},
    findings::{CurrentFindings, Reporter, refusals},
    metrics::PipelineMetrics,
    readiness::{BlockReady, Readiness, SOURCES_TRUSTED},
    runtime::Runtime,
    settings::Settings,
};
use crate::{
    api::{Kind, Object, ObjectKey, mesh_config::MeshConfig},
    clock::Clock,
    mesh::{
        engine::Engine,
        validate,
        world::{Touched, World},
    },
    source::{Change, Loss, SourceEvent, debounce::Debounce},
    timer::until,
    visits::Visits,
    xds::{classes::Classes, ledger::Refusal},
};

/// Everything that a batch of changes passes through.
pub(super) struct Pipeline {
    /// Makes worlds.
    engine: Engine,
    /// Makes views.
    classes: Arc<Classes>,
    /// Gathers changes.
    debounce: Debounce,
    /// Shows what is wrong with objects.
    findings: Arc<CurrentFindings>,
    /// Is blocked while a source is not trusted.
    readiness: Readiness,
    /// Follows each published change.
    convergence: Arc<Convergence>,
    /// Shows each published world.
    worlds: watch::Sender<Arc<World>>,
    /// Shows a copy of the engine that made it.
    engines: watch::Sender<Engine>,
    /// Tells when a change was published.
    clock: Clock,
    /// Tells what proxies refuse.
    refused: watch::Receiver<Arc<[Refusal]>>,
    /// Counts.
    metrics: PipelineMetrics,
    /// The sources that are not trusted now.
    untrusted: BTreeMap<SmolStr, BlockReady>,
}

impl Pipeline {
    /// Returns a pipeline between the sources and the shared state.
    pub(super) fn new(settings: &Settings, mesh: MeshConfig, runtime: &Runtime) -> Self {
        Self {
            engine: Engine::new(
                &settings.cluster.domain,
                MeshConfig { features: settings.cluster.features, multi_root: settings.trust.multi_root, ..mesh },
            ),
            classes: Arc::clone(&runtime.classes),
            debounce: Debounce::new(settings.debounce),
            findings: Arc::clone(&runtime.findings),
            readiness: runtime.readiness.clone(),
            convergence: Arc::clone(&runtime.convergence),
            worlds: runtime.worlds.clone(),
            engines: runtime.engines.clone(),
            clock: Arc::clone(&runtime.clock),
            refused: runtime.ledger.refused_objects().subscribe(),
            metrics: runtime.metrics.pipeline.clone(),
            untrusted: BTreeMap::new(),
        }
    }

    /// Works until the sources end; drops `synced` with the first world. Before the sources are synced nothing is published: half
    /// a world would take away what proxies have from the process before this one.
    pub(super) async fn run(mut self, events: impl Stream<Item = SourceEvent>, synced: BlockReady) {
        let mut events = pin!(events);
        let mut unsynced = Some(synced);
        let mut translation = self.classes.findings();
        let classes = Arc::clone(&self.classes);
        loop {
            let due = self.debounce.due().filter(|_| unsynced.is_none());
            tokio::select! {
                event = events.next() => match event {
                    // Sources that end early leave half a world: it never becomes ready.
                    None if unsynced.is_some() => return pending().await,
                    None => return,
                    Some(SourceEvent::Synced) => {
                        self.publish_all();
                        unsynced = None;
                    }
                    Some(event) => self.accept(event),
                },
                () = until(due) => self.publish_due(),
                () = classes.secrets_due(), if unsynced.is_none() => aside(|| self.refresh()),
                Ok(()) = translation.changed() => {
                    let findings = translation.borrow_and_update().clone();
                    self.findings.replace(Reporter::Translation, findings);
                }
                Ok(()) = self.refused.changed() => {
                    let refused = Arc::clone(&self.refused.borrow_and_update());
                    self.findings.replace(Reporter::Proxies, refusals(&refused));
                }
            }
        }
    }

    fn accept(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => {
                self.metrics.count_events(&changes, |key| self.engine.has(key));
                self.debounce.push(changes, Instant::now());
            }
            SourceEvent::Diagnostics { source, findings } => self.findings.replace(Reporter::Source(source), findings),
            SourceEvent::Locations(changes) => self.findings.update_locations(changes),
            SourceEvent::Lost { source, reason, loss } => {
                tracing::error!(%source, reason, "source lost; what it said is kept");
                self.metrics.set_lost(&source, true);
                match loss {
                    Loss::Untrusted => self.distrust(source, &reason),
                    _ => _ = self.untrusted.remove(&source),
                }
            }
            SourceEvent::Recovered { source } => {
                tracing::info!(%source, "source recovered");
                self.metrics.set_lost(&source, false);
                self.untrusted.remove(&source);
            }
            SourceEvent::Synced => {}
        }
    }

    fn distrust(&mut self, source: SmolStr, reason: &str) {
        let reason = format!("{reason}; what was known is kept until it is back, or until a restart");
        // The block that was there before goes last: nobody sees a moment between the two.
        self.untrusted.insert(source, self.readiness.block_because(SOURCES_TRUSTED, reason));
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

    /// Shows the same world again, from which proxies are now to be given other secrets.
    fn refresh(&mut self) {
        self.classes.prepare(Arc::clone(self.engine.world()), &Touched::default()).send();
    }

    fn publish(&mut self, changes: Vec<Change>, since: Instant) {
        aside(|| self.make(changes, since));
    }

    fn make(&mut self, changes: Vec<Change>, since: Instant) {
        let (started, visits) = (Instant::now(), Visits::of_this_thread());
        let kinds: Vec<Kind> = changes.iter().map(|change| change.key().kind).collect();
        let named: Vec<ObjectKey> = changes.iter().take(NAMED).map(Change::key).cloned().collect();
        let applied = self.engine.apply(changes.into_iter().map(keyed));
        let making = started.elapsed();
        let world = applied.world;
        let generation = world.generation;
        let now = (self.clock)();
        let seen = now.checked_sub(since.elapsed()).unwrap_or(now);
        let published = self.classes.prepare(Arc::clone(&world), &applied.touched);
        self.metrics.count_batch(kinds.len(), applied.recomputed, &published, started.elapsed());
        self.metrics.count_visits(Visits::of_this_thread() - visits);
        // The change is recorded before it is sent: otherwise an ACK could come first.
        self.convergence.published(generation, &named, seen, now, published.awaited().to_vec());
        self.metrics.count_published(&kinds, making, since.elapsed());
        published.send();
        self.worlds.send_replace(Arc::clone(&world));
        self.engines.send_replace(self.engine.clone());
        // Checking costs as much as the mesh is large: proxies do not wait for it.
        self.findings.replace(Reporter::Mesh, validate::check(&world));
    }
}

/// Does long work. Where there are other threads, they take over all else that this one serves meanwhile, and what wakes them.
fn aside(work: impl FnOnce()) {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

fn keyed(change: Change) -> (ObjectKey, Option<Arc<Object>>) {
    match change {
        Change::Applied(object) => (object.key.clone(), Some(object)),
        Change::Deleted(key) => (key, None),
    }
}

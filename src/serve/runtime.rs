//! The state that the parts of one control plane share, and its metrics.

use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::{
    connections::{ConnectionLimits, Connections},
    convergence::Convergence,
    debug::{Access, DebugState},
    files,
    findings::CurrentFindings,
    memory,
    metrics::PipelineMetrics,
    process_metrics,
    readiness::Readiness,
    secret_readers::secret_readers,
    settings::{LimitSettings, Settings},
    tasks::Tasks,
    world_metrics::WorldMetrics,
};
use crate::{
    api::mesh_config::MeshConfig,
    budget::Budget,
    controllers::ControllerMetrics,
    identity::{self, Clock, authenticate::kubernetes::TokenMetrics, metrics::CaMetrics},
    mesh::{engine::Engine, world::World},
    polls,
    status::StatusMetrics,
    webhook::{admission::AdmissionMetrics, inject::InjectionMetrics},
    xds::{classes::Classes, ledger::Ledger, metrics::DeliveryMetrics},
};

/// What the parts share.
pub(super) struct Runtime {
    /// What runs until shutdown.
    pub(super) tasks: Tasks,
    /// What time it is.
    pub(super) clock: Clock,
    /// What still blocks readiness.
    pub(super) readiness: Readiness,
    /// The newest world, for those that read it beside the flow: authentication, injection, controllers.
    pub(super) worlds: watch::Sender<Arc<World>>,
    /// A copy of the engine that made it, for those that ask what a change would do: admission.
    pub(super) engines: watch::Sender<Engine>,
    /// What proxies are to have.
    pub(super) classes: Arc<Classes>,
    /// What proxies have.
    pub(super) ledger: Arc<Ledger>,
    /// What is wrong with objects.
    pub(super) findings: Arc<CurrentFindings>,
    /// How far recent changes have come.
    pub(super) convergence: Arc<Convergence>,
    /// What debug pages are made from.
    pub(super) debug: Arc<DebugState>,
    /// Who may read debug pages over HTTP.
    pub(super) debug_access: Access,
    /// What all callers together may have this process hold.
    pub(super) budget: Budget,
    /// The connections of all ports.
    pub(super) connections: Connections,
    /// Counters.
    pub(super) metrics: Metrics,
}

/// Counters of the parts that are handed theirs. All are registered; cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) ca: CaMetrics,
    pub(super) tokens: TokenMetrics,
    pub(super) controllers: ControllerMetrics,
    pub(super) injection: InjectionMetrics,
    pub(super) admission: AdmissionMetrics,
    pub(super) status: StatusMetrics,
    pub(super) pipeline: PipelineMetrics,
}

// === impl Runtime ===

impl Runtime {
    /// Returns the state of a control plane that has not read anything yet. Its metrics are put into `registry`.
    pub(super) fn new(settings: &Settings, tasks: Tasks, registry: &mut Registry) -> Self {
        let clock = identity::system_clock();
        let readiness = Readiness::default();
        let worlds = watch::Sender::new(Arc::default());
        let engines = watch::Sender::new(Engine::new(&settings.cluster.domain, MeshConfig::default()));
        let classes = Arc::new(Classes::new(secret_readers(settings), Arc::clone(&clock)));
        tasks.spawn_until_shutdown({
            let classes = Arc::clone(&classes);
            async move { classes.let_go_of_those_gone().await }
        });
        tasks.spawn_until_shutdown({
            let classes = Arc::clone(&classes);
            async move { classes.keep_readers_known().await }
        });
        let findings = Arc::new(CurrentFindings::default());
        let convergence = Arc::new(Convergence::default());
        let delivery = DeliveryMetrics::default();
        delivery.register(registry);
        let ledger = Arc::new(Ledger::new(delivery).with_observer(Arc::<Convergence>::clone(&convergence)));
        let debug = Arc::new(DebugState {
            instance: settings.instance.name().to_owned(),
            cluster: SmolStr::new(&settings.cluster.cluster_id),
            ledger: Arc::clone(&ledger),
            classes: Arc::clone(&classes),
            worlds: worlds.subscribe(),
            readiness: readiness.clone(),
            convergence: Arc::clone(&convergence),
            findings: Arc::clone(&findings),
            inventory: Arc::default(),
            told: Arc::default(),
            ca: OnceLock::new(),
            clock: Arc::clone(&clock),
        });
        findings.register(registry);
        convergence.register(registry);
        process_metrics::register(registry);
        polls::register(registry);
        registry.register_collector(Box::new(WorldMetrics(worlds.subscribe())));
        let source = settings.source.api_server().map(|server| server.metrics.clone()).unwrap_or_default();
        source.register(registry);
        settings.key_sets.metrics.register(registry);
        let metrics = Metrics::register(registry, &clock, &classes);
        let budget = Budget::of(memory::for_callers(settings.limits.memory));
        budget.register(registry);
        let connections = Connections::new(connection_limits(settings.limits), budget.clone());
        connections.register(registry);
        let debug_access = Access::default();
        Self {
            tasks,
            clock,
            readiness,
            worlds,
            engines,
            classes,
            ledger,
            findings,
            convergence,
            debug,
            debug_access,
            budget,
            connections,
            metrics,
        }
    }
}

fn connection_limits(settings: LimitSettings) -> ConnectionLimits {
    let total = files::raise_limit();
    let limits = ConnectionLimits { total, per_address: settings.connections_per_address.unwrap_or(total / 2) };
    tracing::info!(memory = settings.memory, connections = limits.total, per_address = limits.per_address, "what callers may cost");
    limits
}

// === impl Metrics ===

impl Metrics {
    fn register(registry: &mut Registry, clock: &Clock, classes: &Classes) -> Self {
        let metrics = Self {
            ca: CaMetrics::default(),
            tokens: TokenMetrics::default(),
            controllers: ControllerMetrics::default(),
            injection: InjectionMetrics::default(),
            admission: AdmissionMetrics::default(),
            status: StatusMetrics::default(),
            pipeline: PipelineMetrics::register(registry, classes.translations()),
        };
        metrics.ca.register(registry, clock);
        metrics.tokens.register(registry);
        metrics.controllers.register(registry);
        metrics.injection.register(registry);
        metrics.admission.register(registry);
        metrics.status.register(registry);
        metrics
    }
}

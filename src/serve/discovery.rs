//! The control plane put together: sources, pipeline, ports; started in order, drained on SIGTERM.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use prometheus_client::registry::Registry;
use smol_str::SmolStr;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    connection::{ConnectionOptions, serve_plain},
    convergence::Convergence,
    debug::{Access, Inspection},
    diagnostics::Standing,
    http::{self, Exposed},
    https::{self, Bounds},
    identity::{Identity, IdentityMetrics, IdentitySettings},
    metrics::PipelineMetrics,
    pipeline::{Pipeline, SYNCED},
    process_metrics,
    protocol::Protocol,
    readiness::Readiness,
    serving_files::ServingFiles,
    tls::serve_tls,
    world_metrics::WorldMetrics,
};
use crate::{
    api::{Diagnostic, Spec, mesh_config::MeshConfig},
    identity::{self, Clock, ca::IssuePolicy, service::CertificateService},
    mesh::{engine::Engine, world::World},
    source::{
        SourceEvent,
        debounce::{self, Debounce},
        folder::Folder,
        kubernetes::{self, SourceMetrics},
        mesh_config::MeshConfigFile,
    },
    status::{self, StatusMetrics},
    version,
    webhook::{
        admission::{self, AdmissionMetrics},
        inject::{self, InjectionMetrics, Injector},
    },
    xds::{
        classes::Classes,
        ledger::{DeliveryMetrics, Ledger},
        rollout,
        transport::{DiscoveryService, Options},
    },
};

/// Readiness condition: the signing CA is loaded.
const CA_LOADED: &str = "CA loaded";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where objects come from.
    pub source: Source,
    /// Folder of the signing CA.
    pub ca_dir: PathBuf,
    /// Identity and leadership in Kubernetes.
    pub identity: IdentitySettings,
    /// Folder with the key set of the local token issuer.
    pub token_issuer_dir: Option<PathBuf>,
    /// MeshConfig file, which wins over the API server's ConfigMap.
    pub mesh_config: Option<PathBuf>,
    /// Port 8080.
    pub http: SocketAddr,
    /// Port 15010.
    pub grpc: SocketAddr,
    /// Port 15012.
    pub secure_grpc: SocketAddr,
    /// Port 15014.
    pub monitoring: SocketAddr,
    /// Port 15017; `None`: no webhooks.
    pub https: Option<SocketAddr>,
    /// What injected proxies are like.
    pub injection: inject::Settings,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Cluster id of the objects.
    pub cluster_id: String,
    /// More names for the serving certificate.
    pub tls_sans: Vec<String>,
    /// Files of a serving certificate that somebody else issues; `None`: our own CA does.
    pub serving_files: Option<ServingFiles>,
    /// TLS versions and cipher suites.
    pub protocol: Protocol,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Its revision; empty or `default` for the one without a name.
    pub revision: String,
    /// Name of the pod that it runs in; empty outside of one.
    pub pod: String,
    /// Service account that it runs as; empty outside of a pod.
    pub service_account: String,
    /// Grace of streams on shutdown.
    pub shutdown: Duration,
    /// How connections of proxies are kept.
    pub connections: ConnectionOptions,
    /// How long certificates live.
    pub issue: IssuePolicy,
    /// How changes are gathered.
    pub debounce: debounce::Settings,
    /// How long a rollout waits for an ACK.
    pub gate_deadline: Duration,
    /// Without the order of rollouts, to show what it is worth.
    pub unordered: bool,
    /// How long removed listeners drain.
    pub drain_time: Duration,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of YAML.
    Folder(PathBuf),
    /// An API server.
    Kubernetes(Box<kubernetes::Settings>),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: the CA is refused, a port is taken, the key set or MeshConfig cannot be read. Says which.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let running = Running::default();
    // An API server that is away is waited for; whoever stops us meanwhile is obeyed.
    tokio::select! {
        started = start(&settings, &running) => started?,
        () = signals.wait() => return Ok(()),
    }
    signals.wait().await;
    running.drain(settings.shutdown).await;
    Ok(())
}

/// What is stopped on SIGTERM.
#[derive(Clone, Default)]
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The state that the parts share. Its metrics are registered.
struct Core {
    readiness: Arc<Readiness>,
    standing: Arc<Standing>,
    convergence: Arc<Convergence>,
    ledger: Arc<Ledger>,
    classes: Arc<Classes>,
    worlds: watch::Sender<Arc<World>>,
    inspection: Arc<Inspection>,
    access: Access,
    injections: InjectionMetrics,
    admissions: AdmissionMetrics,
    statuses: StatusMetrics,
    identity_metrics: IdentityMetrics,
    clock: Clock,
}

async fn start(settings: &Settings, running: &Running) -> anyhow::Result<()> {
    let http = bind("--httpAddr", settings.http).await?;
    let grpc = bind("--grpcAddr", settings.grpc).await?;
    let secure_grpc = bind("--secureGRPCAddr", settings.secure_grpc).await?;
    let monitoring = bind("--monitoringAddr", settings.monitoring).await?;
    let https = match settings.https {
        Some(address) => Some(bind("--httpsAddr", address).await?),
        None => None,
    };

    let mut registry = Registry::default();
    let core = Core::register(settings, &mut registry);
    let pipeline_metrics = PipelineMetrics::register(&mut registry, core.classes.translations());
    let exposed = core.exposed(registry);
    for listener in [http, monitoring] {
        running.spawn(http::serve(listener, exposed.clone(), running.stop.clone().cancelled_owned()));
    }

    let mesh = mesh_config(settings).await?;
    let identity = Identity::load(settings, &mesh, &core.clock, core.worlds.subscribe(), &core.identity_metrics).await?;
    core.access.authenticate_by(Arc::clone(&identity.authenticator));
    identity.keep(&running.tasks, &running.stop);
    core.readiness.set(CA_LOADED, true);
    tokio::spawn(core.pipeline(settings, mesh, pipeline_metrics).run(events(settings)?));

    // Proxies are let in when there is a world to show: before, they would be told that there is nothing.
    wait_until_ready(&core.readiness).await;
    serve_proxies(settings, &core, &identity, grpc, secure_grpc, running);
    if let Some(https) = https {
        let webhooks = https::router(webhooks(settings, &core), Arc::clone(&core.readiness), Bounds::default());
        running.spawn(https::serve(https, Arc::clone(&identity.tls), webhooks, Bounds::default(), running.stop.clone()));
    }
    let leader = identity.control(settings, core.worlds.subscribe(), &running.tasks, &running.stop);
    write_status(settings, &core, leader, running);
    tracing::info!(version = version::VERSION, source = %settings.source, "serving");
    Ok(())
}

// === impl Core ===

impl Core {
    fn register(settings: &Settings, registry: &mut Registry) -> Self {
        let clock = identity::system_clock();
        let identity_metrics = IdentityMetrics::register(registry, &clock);
        let injections = InjectionMetrics::default();
        injections.register(registry);
        let admissions = AdmissionMetrics::default();
        admissions.register(registry);
        let statuses = StatusMetrics::default();
        statuses.register(registry);
        let source = match &settings.source {
            Source::Kubernetes(kubernetes) => kubernetes.metrics.clone(),
            Source::Folder(_) => SourceMetrics::default(),
        };
        source.register(registry);
        let standing = Arc::new(Standing::default());
        registry.register("istiod_lite_diagnostics", "Findings that stand, by severity", standing.gauges.clone());
        let convergence = Arc::new(Convergence::default());
        convergence.register(registry);
        process_metrics::register(registry);
        let delivery = DeliveryMetrics::default();
        delivery.register(registry);
        let readiness = Arc::new(Readiness::awaiting(&[CA_LOADED, SYNCED]));
        let ledger = Arc::new(Ledger::observed(delivery, Arc::<Convergence>::clone(&convergence)));
        let classes = Arc::new(Classes::default());
        let worlds = watch::channel(Arc::default()).0;
        registry.register_collector(Box::new(WorldMetrics(worlds.subscribe())));
        let inspection = Arc::new(Inspection {
            instance: if settings.pod.is_empty() { "istiod-lite".to_owned() } else { settings.pod.clone() },
            cluster: SmolStr::new(&settings.cluster_id),
            ledger: Arc::clone(&ledger),
            classes: Arc::clone(&classes),
            worlds: worlds.subscribe(),
            readiness: Arc::clone(&readiness),
            convergence: Arc::clone(&convergence),
            diagnostics: Arc::clone(&standing),
        });
        let access = Access::default();
        Self {
            readiness,
            standing,
            ledger,
            convergence,
            classes,
            worlds,
            inspection,
            access,
            injections,
            admissions,
            statuses,
            identity_metrics,
            clock,
        }
    }

    fn exposed(&self, registry: Registry) -> Exposed {
        Exposed {
            readiness: Arc::clone(&self.readiness),
            registry: Arc::new(registry),
            inspection: Arc::clone(&self.inspection),
            access: self.access.clone(),
        }
    }

    fn pipeline(&self, settings: &Settings, mesh: MeshConfig, metrics: PipelineMetrics) -> Pipeline {
        Pipeline {
            engine: Engine::new(&settings.domain, mesh),
            classes: Arc::clone(&self.classes),
            debounce: Debounce::new(settings.debounce),
            standing: Arc::clone(&self.standing),
            readiness: Arc::clone(&self.readiness),
            convergence: Arc::clone(&self.convergence),
            worlds: self.worlds.clone(),
            metrics,
            untrusted: BTreeMap::new(),
        }
    }
}

// === sources ===

/// The settings that hold at the start: those of the file, else those of the API server, else the defaults.
async fn mesh_config(settings: &Settings) -> anyhow::Result<MeshConfig> {
    let object = match (mesh_file(settings), &settings.source) {
        (Some(file), _) => {
            let said = |found: &[Diagnostic]| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Some(file.read().map_err(|found| anyhow::anyhow!("--meshConfig: {}", said(&found)))?.0)
        }
        (None, Source::Kubernetes(kubernetes)) => kubernetes::mesh_config(kubernetes).await,
        (None, Source::Folder(_)) => None,
    };
    Ok(match object.as_ref().map(|object| &object.spec) {
        Some(Spec::MeshConfig(mesh)) => MeshConfig::clone(mesh),
        _ => MeshConfig::default(),
    })
}

fn mesh_file(settings: &Settings) -> Option<MeshConfigFile> {
    let cluster = SmolStr::new(&settings.cluster_id);
    settings.mesh_config.clone().map(|path| MeshConfigFile { path, cluster })
}

fn events(settings: &Settings) -> anyhow::Result<impl Stream<Item = SourceEvent> + use<>> {
    let (mesh_events, mesh_inbox) = mpsc::channel(1);
    let events = match &settings.source {
        Source::Folder(folder) => {
            if let Some(file) = mesh_file(settings) {
                tokio::spawn(file.follow(mesh_events));
            }
            Folder { cluster: SmolStr::new(&settings.cluster_id), ..Folder::new(folder) }.watch()?
        }
        // It follows the file itself, as the settings say what it reads.
        Source::Kubernetes(kubernetes) => kubernetes::watch(kubernetes::Settings::clone(kubernetes), mesh_file(settings)),
    };
    Ok(ReceiverStream::new(events).merge(ReceiverStream::new(mesh_inbox)))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "folder {}", folder.display()),
            Self::Kubernetes(_) => f.write_str("Kubernetes"),
        }
    }
}

// === ports ===

fn serve_proxies(settings: &Settings, core: &Core, identity: &Identity, grpc: TcpListener, secure_grpc: TcpListener, running: &Running) {
    let connections = settings.connections;
    let discovery = |authenticated| {
        let rollout = rollout::Settings { ordered: !settings.unordered, gate: settings.gate_deadline, drain: settings.drain_time };
        let options = Options { rollout, authenticated, shutdown: running.stop.clone(), ..Options::default() };
        DiscoveryService::new(Arc::<Classes>::clone(&core.classes), Arc::clone(&core.ledger), options)
            .inspected_by(Arc::<Inspection>::clone(&core.inspection))
    };
    let metrics = core.identity_metrics.ca.clone();
    let certificates = CertificateService::new(Arc::clone(&identity.ca), settings.issue, Arc::clone(&core.clock), metrics.clone());
    let secure = Routes::new(discovery(true)).add_service(certificates.into_server());
    let (tls, authenticator) = (Arc::clone(&identity.tls), Arc::clone(&identity.authenticator));
    running.spawn(serve_plain(grpc, Routes::new(discovery(false)), connections, running.stop.clone()));
    running.spawn(serve_tls(secure_grpc, tls, secure, authenticator, metrics, connections, running.stop.clone()));
}

fn webhooks(settings: &Settings, core: &Core) -> Router {
    let injector = Injector { settings: settings.injection.clone(), worlds: core.worlds.subscribe(), metrics: core.injections.clone() };
    let admission = admission::routes(core.worlds.subscribe(), SmolStr::new(&settings.cluster_id), core.admissions.clone());
    inject::routes(Arc::new(injector)).merge(admission)
}

// === what users see with kubectl ===

fn write_status(settings: &Settings, core: &Core, leader: watch::Receiver<bool>, running: &Running) {
    let Source::Kubernetes(kubernetes) = &settings.source else { return };
    let inputs = status::Inputs { findings: core.standing.subscribe(), ledger: Arc::clone(&core.ledger), leader };
    let settings = status::Settings {
        client: kubernetes.client.clone(),
        cluster: kubernetes.cluster.clone(),
        namespace: kubernetes.namespace.clone(),
        revision: kubernetes.revision.clone(),
        instance: if settings.pod.is_empty() { "istiod-lite".to_owned() } else { settings.pod.clone() },
        clock: Arc::clone(&core.clock),
    };
    running.spawn(status::run(settings, inputs, core.statuses.clone(), running.stop.clone()));
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| anyhow::anyhow!("{flag} {address}: {error}"))
}

async fn wait_until_ready(readiness: &Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// === start and end ===

impl Running {
    fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task);
    }

    async fn drain(&self, grace: Duration) {
        tracing::info!(?grace, "draining");
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace + Duration::from_secs(1), self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

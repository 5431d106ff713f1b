//! The control plane put together: sources, pipeline, ports; started in order, drained on SIGTERM.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use smol_str::SmolStr;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    connection::{ConnectionOptions, serve_plain},
    convergence::Convergence,
    debug::{Access, Inspection},
    diagnostics::Standing,
    http::{self, Exposed},
    metrics::PipelineMetrics,
    pipeline::{Pipeline, SYNCED},
    readiness::Readiness,
    tls::{ServingNames, TlsIdentity, serve_tls},
};
use crate::{
    api::{Spec, mesh_config::MeshConfig},
    identity::{
        self,
        authenticate::{Authenticator, TokenVerifier},
        ca::{self, CaHandle, IssuePolicy},
        local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, KEY_SET_FILE},
        metrics::CaMetrics,
        service::CertificateService,
        token::KeySetVerifier,
    },
    mesh::engine::Engine,
    source::{
        debounce::{self, Debounce},
        folder::Folder,
        mesh_config::MeshConfigFile,
    },
    version,
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
    /// Folder of objects.
    pub config_dir: PathBuf,
    /// Folder of the signing CA.
    pub ca_dir: PathBuf,
    /// Folder with the key set of the local token issuer.
    pub token_issuer_dir: Option<PathBuf>,
    /// MeshConfig file.
    pub mesh_config: Option<PathBuf>,
    /// Port 8080.
    pub http: SocketAddr,
    /// Port 15010.
    pub grpc: SocketAddr,
    /// Port 15012.
    pub secure_grpc: SocketAddr,
    /// Port 15014.
    pub monitoring: SocketAddr,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Cluster id of the objects.
    pub cluster_id: String,
    /// More names for the serving certificate.
    pub tls_sans: Vec<String>,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of this process among its replicas: its pod's.
    pub instance: String,
    /// Grace of streams on shutdown.
    pub shutdown: Duration,
    /// Age at which connections are ended.
    pub max_connection_age: Duration,
    /// How changes are gathered.
    pub debounce: debounce::Settings,
    /// How long a rollout waits for an ACK.
    pub gate_deadline: Duration,
    /// Without the order of rollouts, to show what it is worth.
    pub unordered: bool,
    /// How long removed listeners drain.
    pub drain_time: Duration,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: the CA is refused, a port is taken, the key set or MeshConfig cannot be read. Says which.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut registry = Registry::default();
    let clock = identity::system_clock();

    let cluster = SmolStr::new(&settings.cluster_id);
    let mesh_file = settings.mesh_config.clone().map(|path| MeshConfigFile { path, cluster: cluster.clone() });
    let mesh = mesh_file.as_ref().map_or_else(|| Ok(MeshConfig::default()), mesh_config)?;
    let ca = ca::load(&settings.ca_dir, clock())?;
    let ca_metrics = CaMetrics::default();
    ca_metrics.register(&mut registry, &clock);
    let ca = CaHandle::new(ca);
    let authenticator = Arc::new(Authenticator::new(mesh.trust_domain.clone(), verifiers(&settings, &mesh)?, Arc::clone(&clock)));
    let tls = TlsIdentity::new(Arc::clone(&ca), serving_names(&settings), Arc::clone(&clock))?;

    let readiness = Arc::new(Readiness::awaiting(&[CA_LOADED, SYNCED]));
    readiness.set(CA_LOADED, true);
    let standing = Arc::new(Standing::default());
    registry.register("istiod_lite_diagnostics", "Findings that stand, by severity", standing.gauges.clone());
    let convergence = Arc::new(Convergence::default());
    let delivery = DeliveryMetrics::default();
    delivery.register(&mut registry);
    let ledger = Arc::new(Ledger::observed(delivery, Arc::<Convergence>::clone(&convergence)));
    let classes = Arc::new(Classes::default());
    let (worlds, _) = watch::channel(Arc::default());
    let inspection = Arc::new(Inspection {
        instance: settings.instance.clone(),
        cluster: cluster.clone(),
        ledger: Arc::clone(&ledger),
        classes: Arc::clone(&classes),
        worlds: worlds.subscribe(),
        readiness: Arc::clone(&readiness),
        convergence: Arc::clone(&convergence),
        diagnostics: Arc::clone(&standing),
    });
    let pipeline = Pipeline {
        engine: Engine::new(&settings.domain, mesh),
        classes: Arc::clone(&classes),
        debounce: Debounce::new(settings.debounce),
        standing,
        readiness: Arc::clone(&readiness),
        convergence,
        worlds,
        metrics: PipelineMetrics::register(&mut registry, classes.translations()),
    };
    let exposed = Exposed {
        readiness: Arc::clone(&readiness),
        registry: Arc::new(registry),
        inspection: Arc::clone(&inspection),
        access: Access::new(Arc::clone(&authenticator)),
    };

    let http = bind("--httpAddr", settings.http).await?;
    let grpc = bind("--grpcAddr", settings.grpc).await?;
    let secure_grpc = bind("--secureGRPCAddr", settings.secure_grpc).await?;
    let monitoring = bind("--monitoringAddr", settings.monitoring).await?;
    for listener in [http, monitoring] {
        tasks.spawn(http::serve(listener, exposed.clone(), stop.clone().cancelled_owned()));
    }

    let folder = Folder { cluster, ..Folder::new(&settings.config_dir) }.watch()?;
    let (mesh_events, mesh_inbox) = mpsc::channel(1);
    match mesh_file {
        Some(file) => drop(tokio::spawn(file.follow(mesh_events))),
        None => drop(mesh_events),
    }
    tokio::spawn(pipeline.run(ReceiverStream::new(folder).merge(ReceiverStream::new(mesh_inbox))));

    // Proxies are let in when there is a world to show: before, they would be told that there is nothing.
    let signalled = until_signalled();
    tokio::pin!(signalled);
    tokio::select! {
        () = wait_until_ready(&readiness) => {}
        signalled = &mut signalled => return signalled.map_err(Into::into),
    }
    let connections = ConnectionOptions { max_age: settings.max_connection_age, grace: settings.shutdown, ..ConnectionOptions::default() };
    let discovery = |authenticated| {
        let rollout = rollout::Settings { ordered: !settings.unordered, gate: settings.gate_deadline, drain: settings.drain_time };
        let options = Options { rollout, authenticated, shutdown: stop.clone(), ..Options::default() };
        DiscoveryService::new(Arc::<Classes>::clone(&classes), Arc::clone(&ledger), options)
            .inspected_by(Arc::<Inspection>::clone(&inspection))
    };
    let certificates = CertificateService::new(Arc::clone(&ca), IssuePolicy::default(), Arc::clone(&clock), ca_metrics.clone());
    let secure = Routes::new(discovery(true)).add_service(certificates.into_server());
    tasks.spawn(serve_plain(grpc, Routes::new(discovery(false)), connections, stop.clone()));
    tasks.spawn(serve_tls(secure_grpc, Arc::clone(&tls), secure, authenticator, ca_metrics.clone(), connections, stop.clone()));
    tasks.spawn(tls.keep_fresh(stop.clone()));
    tasks.spawn(ca::watch(settings.ca_dir.clone(), ca, clock, ca_metrics, stop.clone()));
    tracing::info!(version = version::VERSION, config_dir = %settings.config_dir.display(), "serving");

    signalled.await?;
    tracing::info!(grace = ?settings.shutdown, "draining");
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(settings.shutdown + Duration::from_secs(1), tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

fn mesh_config(file: &MeshConfigFile) -> anyhow::Result<MeshConfig> {
    let (object, _) = file
        .read()
        .map_err(|found| anyhow::anyhow!("--meshConfig: {}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    match &object.spec {
        Spec::MeshConfig(mesh) => Ok(MeshConfig::clone(mesh)),
        other => Err(anyhow::anyhow!("--meshConfig: holds no MeshConfig but {other:?}")),
    }
}

fn verifiers(settings: &Settings, mesh: &MeshConfig) -> anyhow::Result<Vec<Arc<dyn TokenVerifier>>> {
    let Some(folder) = &settings.token_issuer_dir else { return Ok(Vec::new()) };
    let verifier = KeySetVerifier::open(&folder.join(KEY_SET_FILE), DEFAULT_ISSUER, &[DEFAULT_AUDIENCE.into()], &mesh.trust_domain)?;
    Ok(vec![Arc::new(verifier)])
}

fn serving_names(settings: &Settings) -> ServingNames {
    settings.tls_sans.iter().fold(ServingNames::istiod(&settings.namespace, None).and_local(), |names, name| names.and(name))
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| anyhow::anyhow!("{flag} {address}: {error}"))
}

async fn wait_until_ready(readiness: &Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_signalled() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

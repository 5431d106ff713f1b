//! A control plane put together: sources, pipeline, ports; started in order, drained on SIGTERM.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use prometheus_client::registry::Registry;
use smol_str::SmolStr;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
};
use tonic::service::Routes;

use super::{
    connection::serve_plain,
    http::{self, HttpState, Pages},
    https::{self, Bounds},
    identity::{Identity, node_authorizer},
    kubernetes::{self, Authority},
    pipeline::Pipeline,
    readiness::{CA_LOADED, SOURCES_SYNCED},
    replicas::Replicas,
    runtime::Runtime,
    secure_grpc::SecureGrpc,
    settings::{ListenSettings, Settings},
    sources,
    tasks::Tasks,
    threads::{Threads, hand_over},
    unary::Bounded,
};
use crate::{
    identity::service::{CertificateService, LARGEST_MESSAGE},
    signals::TerminationSignals,
    system_error::explain,
    version,
    webhook::{
        admission,
        inject::{self, Injector},
    },
    xds::{
        classes::Classes,
        transport::{DiscoveryService, Options},
    },
};

/// How many connections may wait to be accepted, as far as the system allows (`net.core.somaxconn`).
const BACKLOG: u32 = 16_384;

/// How much of answers the kernel keeps for a peer that does not take them, in bytes. It doubles this for what it needs besides, and
/// would otherwise go up to 4 MB, which no budget knows of. More goes out in the time of a round trip only to peers that are far away.
const SEND_BUFFER: u32 = 32 << 10;

/// How long a request for a certificate may take, with its body; an external signer has its time besides.
const CERTIFICATE_TIME: Duration = Duration::from_secs(10);

/// Runs a control plane until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start: the CA is refused, a port is taken, the key set or MeshConfig cannot be read. Says which.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = TerminationSignals::catch().context("signals cannot be caught")?;
    let (tasks, threads) = (Tasks::default(), Threads::start().context("no threads")?);
    // An API server that is away is waited for; whoever stops us meanwhile is obeyed.
    tokio::select! {
        started = start(&settings, &tasks, &threads) => started?,
        () = signals.next() => return Ok(()),
    }
    signals.next().await;
    tasks.drain(settings.connections.grace).await;
    Ok(())
}

async fn start(settings: &Settings, tasks: &Tasks, threads: &Threads) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&settings.listen)?;
    let mut registry = Registry::default();
    let runtime = Runtime::new(settings, tasks.clone(), &mut registry);
    let ca_loaded = runtime.readiness.block(CA_LOADED);
    let synced = runtime.readiness.block(SOURCES_SYNCED);
    let state = http_state(&runtime, registry);
    for listener in [listeners.http, listeners.monitoring] {
        let listener = hand_over(listener, threads.pages())?;
        let serving = http::serve(listener, state.clone(), http::LIFETIME, runtime.connections.clone(), tasks.shutdown.clone());
        tasks.spawn_on(serving, threads.pages());
    }

    let mesh = sources::mesh_config(settings).await?;
    let identity = Identity::load(settings, &mesh, &runtime).await?;
    runtime.debug_access.authenticate_by(Arc::clone(&identity.authenticator));
    if let Some(ca) = &identity.ca {
        let _ = runtime.debug.ca.set(Arc::clone(ca));
    }
    identity.keep(&runtime);
    drop(ca_loaded);
    tokio::spawn(Pipeline::new(settings, mesh, &runtime).run(sources::events(settings, identity.trust_bundle(&runtime))?, synced));

    // Proxies are let in when there is a world to show: before that they would be told that there is nothing.
    runtime.readiness.ready().await;
    if let Some(listener) = listeners.grpc {
        serve_plain_grpc(settings, &runtime, listener);
    }
    serve_secure_grpc(settings, &runtime, &identity, listeners.secure_grpc)?;
    if let Some(listener) = listeners.https {
        serve_webhooks(settings, &runtime, &identity, hand_over(listener, threads.webhooks())?, threads.webhooks());
    }
    let knowledge = Arc::new(Replicas::of(settings, &runtime, &identity));
    kubernetes::keep_objects(settings, &runtime, Authority { roots: identity.tls.roots(), revocation: identity.revocation(), knowledge });
    let account = &settings.instance.service_account;
    tracing::info!(version = version::VERSION, source = %settings.source, service_account = account, "serving");
    Ok(())
}

/// The ports, bound before anything else: a port that is taken ends the process at once.
struct Listeners {
    http: TcpListener,
    grpc: Option<TcpListener>,
    secure_grpc: TcpListener,
    monitoring: TcpListener,
    https: Option<TcpListener>,
}

impl Listeners {
    fn bind(addresses: &ListenSettings) -> anyhow::Result<Self> {
        Ok(Self {
            http: bind("--httpAddr", addresses.http)?,
            grpc: match addresses.grpc {
                Some(address) => Some(bind("--grpcAddr", address)?),
                None => None,
            },
            secure_grpc: bind("--secureGRPCAddr", addresses.secure_grpc)?,
            monitoring: bind("--monitoringAddr", addresses.monitoring)?,
            https: match addresses.https {
                Some(address) => Some(bind("--httpsAddr", address)?),
                None => None,
            },
        })
    }
}

/// Binds a port. Connections that come faster than they are accepted wait in a queue: when it is full, the kernel falls back on
/// cookies, and resets connections that it then has no place for.
fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Its connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error: std::io::Error| anyhow::anyhow!("{flag} {address}: {}", explain(&error)))
}

fn http_state(runtime: &Runtime, registry: Registry) -> HttpState {
    HttpState {
        readiness: runtime.readiness.clone(),
        registry: Arc::new(registry),
        debug: Arc::clone(&runtime.debug),
        debug_access: runtime.debug_access.clone(),
        pages: Pages::new(runtime.budget.clone()),
    }
}

fn serve_plain_grpc(settings: &Settings, runtime: &Runtime, listener: TcpListener) {
    // What anybody may say is no ground to blame an object, or to wait for it.
    let consequence = "proxies here prove nothing: their ACKs and refusals show in /debug/syncz and istiod_lite_xds_unproven_rejects, \
                       but count neither for convergence nor for the status of objects; connect them to --secureGRPCAddr for that";
    tracing::info!(address = listener.local_addr().ok().map(tracing::field::display), consequence, "plaintext xDS is open");
    let routes = Routes::new(discovery_service(settings, runtime, false));
    let (connections, shutdown) = (runtime.connections.clone(), runtime.tasks.shutdown.clone());
    runtime.tasks.spawn(serve_plain(listener, routes, settings.connections, connections, shutdown));
}

fn serve_secure_grpc(settings: &Settings, runtime: &Runtime, identity: &Identity, listener: TcpListener) -> anyhow::Result<()> {
    let (metrics, clock) = (runtime.metrics.ca.clone(), Arc::clone(&runtime.clock));
    let (signing, inventory) = (identity.signing().context("nobody signs certificates")?, Arc::clone(&runtime.debug.inventory));
    let service = CertificateService::new(signing, settings.identity.issue, clock, metrics.clone(), inventory)
        .telling(Arc::clone(&runtime.debug.told));
    let service = match node_authorizer(settings, &identity.trust_domain, runtime) {
        Some(nodes) => service.for_nodes(nodes),
        None => service,
    };
    let patience = settings.identity.registration.as_ref().map(|others| others.patience).unwrap_or_default();
    let certificates = Bounded {
        service: service.into_server(),
        time: CERTIFICATE_TIME + patience,
        bytes: 2 * LARGEST_MESSAGE,
        budget: runtime.budget.clone(),
    };
    let port = SecureGrpc {
        tls: Arc::clone(&identity.tls),
        routes: Routes::new(discovery_service(settings, runtime, true)).add_service(certificates),
        authenticator: Arc::clone(&identity.authenticator),
        metrics,
        options: settings.connections,
        connections: runtime.connections.clone(),
    };
    runtime.tasks.spawn(port.serve(listener, runtime.tasks.shutdown.clone()));
    Ok(())
}

fn discovery_service(settings: &Settings, runtime: &Runtime, authenticated: bool) -> DiscoveryService {
    let shutdown = runtime.tasks.shutdown.clone();
    let (rollout, bounds, budget) = (settings.rollout, settings.bounds, runtime.budget.clone());
    let options = Options { rollout, bounds, authenticated, shutdown, clock: Arc::clone(&runtime.clock), budget, ..Options::default() };
    DiscoveryService::new(Arc::<Classes>::clone(&runtime.classes), Arc::clone(&runtime.ledger), options)
        .inspected_by(Arc::clone(&runtime.debug) as _)
}

fn serve_webhooks(settings: &Settings, runtime: &Runtime, identity: &Identity, listener: TcpListener, threads: &Handle) {
    let (readiness, budget) = (runtime.readiness.clone(), runtime.budget.clone());
    let routes = https::router(webhooks(settings, runtime), readiness, Bounds::default(), budget);
    let (connections, shutdown) = (runtime.connections.clone(), runtime.tasks.shutdown.clone());
    let serving = https::serve(listener, Arc::clone(&identity.tls), routes, Bounds::default(), connections, shutdown);
    runtime.tasks.spawn_on(serving, threads);
}

fn webhooks(settings: &Settings, runtime: &Runtime) -> Router {
    let injector =
        Injector { settings: settings.injection.clone(), worlds: runtime.worlds.subscribe(), metrics: runtime.metrics.injection.clone() };
    let cluster = SmolStr::new(&settings.cluster.cluster_id);
    let admission = admission::routes(runtime.engines.subscribe(), cluster, runtime.metrics.admission.clone());
    inject::routes(Arc::new(injector)).merge(admission)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{getsockopt, sockopt::SndBuf};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_kernel_keeps_little_for_each_connection() {
        let listener = bind("--httpAddr", ([127, 0, 0, 1], 0).into()).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(getsockopt(&stream, SndBuf).unwrap(), 2 * SEND_BUFFER as usize);
    }
}

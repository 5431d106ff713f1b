//! The agent beside a stock Envoy: it gets the certificate, serves secrets, relays ADS, writes the bootstrap, reports readiness, and
//! starts and ends Envoy.
//!
//! [`run`] ties the pieces together: [`issuance`] gets certificates, [`sds`] serves them to Envoy, [`relay`] carries Envoy's
//! configuration stream to the control plane, [`modules`] fetches what filters run, [`status`] answers on the agent's port, [`envoy`] starts and ends Envoy.

pub(crate) mod admin;
pub(crate) mod application;
pub(crate) mod bootstrap;
pub(crate) mod capture;
pub(crate) mod certificate;
pub(crate) mod drain;
pub(crate) mod envoy;
pub(crate) mod issuance;
pub(crate) mod istio_metrics;
mod kept_statistics;
pub(crate) mod launch;
pub(crate) mod modules;
pub(crate) mod output;
pub(crate) mod readiness;
pub(crate) mod relay;
pub(crate) mod revocation;
pub(crate) mod roots;
pub(crate) mod sds;
pub(crate) mod settings;
mod statistics;
pub(crate) mod status;
pub(crate) mod telemetry;
pub(crate) mod upstream;
pub(crate) mod work_dir;

use std::{io, net::SocketAddr, process::ExitStatus, sync::Arc};

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tracing::info;

use self::{
    admin::Admin, drain::Draining, envoy::Envoy, issuance::Issuance, modules::Modules, relay::Relay, roots::TrustFiles, sds::SecretService,
    settings::Settings, status::Status, telemetry::Telemetry,
};
use crate::{signals::TerminationSignals, system_error::explain};

/// How the agent ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was asked to, and Envoy is gone.
    Asked,
    /// Envoy ended on its own.
    EnvoyEnded(ExitStatus),
}

/// Why the agent could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The folder for sockets and bootstrap cannot be used.
    #[error(transparent)]
    WorkDir(#[from] work_dir::Error),
    /// The agent's port cannot be bound.
    #[error("agent port {address}: {}; --agent-port and --listen-address choose others", explain(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// Envoy does not start or cannot be ended.
    #[error("Envoy {binary}: {}; --envoy names another", explain(error))]
    Envoy {
        /// Its binary.
        binary: String,
        /// What went wrong.
        error: io::Error,
    },
    /// Signals cannot be awaited.
    #[error("signals cannot be caught: {0}")]
    Signals(io::Error),
    /// One of the agent's own services ended.
    #[error("{service} ended: {reason}")]
    Service {
        /// Which service.
        service: &'static str,
        /// Why.
        reason: String,
    },
}

/// Runs Envoy, and everything that it needs, until SIGTERM, SIGINT or `/quitquitquit`; then drains and ends it. A second signal
/// ends the drain at once.
pub(crate) async fn run(settings: Settings) -> Result<End, Error> {
    let mut signals = TerminationSignals::catch().map_err(Error::Signals)?;
    let mut services = JoinSet::new();
    let draining = Draining::new(Admin::new(settings.listen.admin), settings.role, settings.drain);
    let status = start_services(&settings, &draining, &mut services).await?;
    let failed = |error| Error::Envoy { binary: settings.envoy.binary.display().to_string(), error };
    let mut envoy = Envoy::start(&settings).map_err(failed)?;
    tokio::select! {
        ended = envoy.ended() => return ended.map(End::EnvoyEnded).map_err(failed),
        Some(Ok(error)) = services.join_next() => {
            envoy.terminate().await.map_err(failed)?;
            return Err(error);
        }
        () = signals.next() => info!("asked to end"),
        () = status.quit_requested() => info!("asked to quit"),
    }
    tokio::select! {
        () = draining.finished() => {}
        _ = envoy.ended() => {}
        () = signals.next() => info!("asked again: not waiting any longer"),
    }
    envoy.terminate().await.map_err(failed)?;
    work_dir::clear(&settings);
    Ok(End::Asked)
}

async fn start_services(settings: &Settings, draining: &Draining, services: &mut JoinSet<Error>) -> Result<Status, Error> {
    let telemetry = Arc::new(Telemetry::default());
    let (sender, certificate) = watch::channel(None);
    let sockets = work_dir::prepare(settings)?;
    let address = settings.listen.agent;
    let port = TcpListener::bind(address).await.map_err(|error| Error::Listen { address, error })?;

    let (joined_sender, joined) = watch::channel(None);
    let renewal = Arc::new(Notify::new());
    let told = Arc::clone(&renewal);
    let (issued, files) = (certificate.clone(), TrustFiles::of(&settings.discovery));
    services.spawn(async move {
        roots::follow(issued, files, joined_sender, &told).await;
        service_ended("roots", Ok::<_, io::Error>(()))
    });
    if let Some(folder) = settings.output.clone() {
        let current = joined.clone();
        services.spawn(async move {
            output::follow(current, folder).await;
            service_ended("certificate files", Ok::<_, io::Error>(()))
        });
    }
    let secrets = tonic::transport::Server::builder()
        .add_service(SecretDiscoveryServiceServer::new(SecretService::new(joined)))
        .serve_with_incoming(UnixListenerStream::new(sockets.sds));
    services.spawn(async move { service_ended("SDS", secrets.await) });

    let relay = Arc::new(Relay {
        discovery: settings.discovery.clone(),
        cluster_id: settings.workload.cluster_id.clone(),
        certificate: certificate.clone(),
        renewal: Arc::clone(&renewal),
        modules: Arc::new(Modules::new(settings.modules_folder(), settings.plain_registries.clone())),
        telemetry: telemetry.clone(),
    });
    services.spawn(async move { service_ended("ADS relay", Err::<(), _>(relay.serve(sockets.xds).await)) });

    let status = Status::new(settings, draining.clone(), certificate, telemetry.clone());
    let router = status.clone().router().into_make_service_with_connect_info::<SocketAddr>();
    services.spawn(async move { service_ended("agent port", axum::serve(port, router).await) });

    let (workload, discovery) = (settings.workload.clone(), settings.discovery.clone());
    let issuance = Issuance { workload, discovery, policy: settings.certificate, renewal, telemetry };
    services.spawn(async move {
        issuance.run(sender).await;
        service_ended("identity", Ok::<_, io::Error>(()))
    });
    Ok(status)
}

fn service_ended<E: std::fmt::Display>(service: &'static str, result: Result<(), E>) -> Error {
    Error::Service { service, reason: result.err().map_or_else(|| "without an error".to_owned(), |error| error.to_string()) }
}

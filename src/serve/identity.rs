//! Who signs, and who may call: from a folder, or from the API server (contract §4.2, §4.4).

use std::{path::PathBuf, sync::Arc};

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    discovery::{Settings, Source},
    tls::{ServingCertificate, ServingNames, TlsIdentity},
};
use crate::{
    api::mesh_config::MeshConfig,
    controllers::{
        ControllerMetrics, Controllers,
        ca_secret::{CaOrigin, CaSecrets},
    },
    identity::{
        Clock,
        authenticate::{
            Authenticator, TokenVerifier,
            kubernetes::{self, ClusterTokens, TokenMetrics},
        },
        ca::{self, CaHandle, SelfSigned},
        key::KeyType,
        local_issuer::{DEFAULT_ISSUER, KEY_SET_FILE},
        metrics::CaMetrics,
        token::KeySetVerifier,
    },
    mesh::world::World,
    source::kubernetes::Settings as ApiServer,
};

/// What the command line says about identity and leadership in Kubernetes.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// A token must be for one of these.
    pub token_audiences: Vec<String>,
    /// The key of a self-signed root that we make.
    pub self_signed_key: KeyType,
    /// Name of the root certificates' ConfigMaps.
    pub root_certificate: String,
    /// How fast leadership passes on.
    pub leadership: crate::controllers::election::Timing,
}

/// Counters of identity.
#[derive(Clone, Debug, Default)]
pub(super) struct IdentityMetrics {
    pub(super) ca: CaMetrics,
    tokens: TokenMetrics,
    controllers: ControllerMetrics,
}

/// Who signs, and who may call.
pub(super) struct Identity {
    pub(super) ca: Arc<CaHandle>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) tls: Arc<TlsIdentity>,
    clock: Clock,
    metrics: IdentityMetrics,
    source: CaSource,
    cluster: Option<(ApiServer, Arc<ClusterTokens>)>,
}

/// Where the CA came from, and newer ones come from.
enum CaSource {
    Folder(PathBuf),
    Secrets(Box<CaSecrets>, CaOrigin),
}

// === impl IdentityMetrics ===

impl IdentityMetrics {
    pub(super) fn register(registry: &mut Registry, clock: &Clock) -> Self {
        let metrics = Self::default();
        metrics.ca.register(registry, clock);
        metrics.tokens.register(registry);
        metrics.controllers.register(registry);
        metrics
    }
}

// === impl Identity ===

impl Identity {
    /// Waits for the API server, if the CA is there.
    pub(super) async fn load(
        settings: &Settings,
        mesh: &MeshConfig,
        clock: &Clock,
        worlds: watch::Receiver<Arc<World>>,
        metrics: &IdentityMetrics,
    ) -> anyhow::Result<Self> {
        let (ca, source) = load_ca(settings, mesh, clock, metrics).await?;
        let ca = CaHandle::new(ca);
        let mut verifiers = local_verifiers(settings, mesh)?;
        let cluster = cluster_tokens(settings, mesh, worlds, metrics);
        verifiers.extend(cluster.iter().map(|(_, tokens)| Arc::clone(tokens) as Arc<dyn TokenVerifier>));
        let authenticator = Arc::new(Authenticator::new(mesh.trust_domain.clone(), verifiers, Arc::clone(clock)));
        let certificate = match &settings.serving_files {
            Some(files) => ServingCertificate::Files(files.clone()),
            None => ServingCertificate::Ours(serving_names(settings)),
        };
        let tls = TlsIdentity::with(Arc::clone(&ca), certificate, settings.protocol.clone(), Arc::clone(clock))?;
        Ok(Self { ca, authenticator, tls, clock: Arc::clone(clock), metrics: metrics.clone(), source, cluster })
    }

    /// Until `stop`: takes newer CAs over, renews our own certificate, fetches token keys.
    pub(super) fn keep(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        tasks.spawn(Arc::clone(&self.tls).keep_fresh(stop.clone()));
        let ca = Arc::clone(&self.ca);
        match &self.source {
            CaSource::Folder(folder) => {
                tasks.spawn(ca::watch(folder.clone(), ca, Arc::clone(&self.clock), self.metrics.ca.clone(), stop.clone()));
            }
            CaSource::Secrets(secrets, origin) => {
                tasks.spawn(CaSecrets::clone(secrets).keep(ca, *origin, stop.clone()));
            }
        }
        if let Some((_, tokens)) = &self.cluster {
            tasks.spawn(Arc::clone(tokens).keep_keys(Arc::clone(&self.clock), stop.clone()));
        }
    }

    /// Until `stop`: runs for leadership and keeps what we keep in Kubernetes. Says whether this process leads; never,
    /// without an API server.
    pub(super) fn control(
        &self,
        settings: &Settings,
        worlds: watch::Receiver<Arc<World>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> watch::Receiver<bool> {
        let Some((server, _)) = &self.cluster else { return watch::channel(false).1 };
        let controllers = Controllers {
            client: server.client.clone(),
            namespace: settings.namespace.clone(),
            revision: settings.revision.clone(),
            pod: settings.pod.clone(),
            root_certificate: settings.identity.root_certificate.clone(),
            timing: settings.identity.leadership,
            roots: self.tls.roots(),
            worlds,
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.controllers.clone(),
        };
        controllers.start(tasks, stop)
    }
}

/// A folder that holds a CA comes first; it is where the chart mounts Secret `cacerts`.
async fn load_ca(
    settings: &Settings,
    mesh: &MeshConfig,
    clock: &Clock,
    metrics: &IdentityMetrics,
) -> anyhow::Result<(ca::SigningCa, CaSource)> {
    if let Source::Kubernetes(server) = &settings.source
        && !ca::holds_ca(&settings.ca_dir)
    {
        let secrets = CaSecrets {
            client: server.client.clone(),
            namespace: settings.namespace.clone(),
            self_signed: SelfSigned { key: settings.identity.self_signed_key, ..SelfSigned::new(&mesh.trust_domain) },
            clock: Arc::clone(clock),
            metrics: metrics.controllers.clone(),
            ca_metrics: metrics.ca.clone(),
        };
        let (ca, origin) = secrets.load().await?;
        return Ok((ca, CaSource::Secrets(Box::new(secrets), origin)));
    }
    let ca = ca::load(&settings.ca_dir, clock())?;
    ca.log_certificates();
    Ok((ca, CaSource::Folder(settings.ca_dir.clone())))
}

fn cluster_tokens(
    settings: &Settings,
    mesh: &MeshConfig,
    worlds: watch::Receiver<Arc<World>>,
    metrics: &IdentityMetrics,
) -> Option<(ApiServer, Arc<ClusterTokens>)> {
    let Source::Kubernetes(server) = &settings.source else { return None };
    let checks =
        kubernetes::Settings { audiences: settings.identity.token_audiences.clone(), ..kubernetes::Settings::new(&mesh.trust_domain) };
    let tokens = ClusterTokens::new(server.client.clone(), worlds, checks, metrics.tokens.clone());
    Some((ApiServer::clone(server), tokens))
}

fn local_verifiers(settings: &Settings, mesh: &MeshConfig) -> anyhow::Result<Vec<Arc<dyn TokenVerifier>>> {
    let Some(folder) = &settings.token_issuer_dir else { return Ok(Vec::new()) };
    let audiences = &settings.identity.token_audiences;
    let verifier = KeySetVerifier::open(&folder.join(KEY_SET_FILE), DEFAULT_ISSUER, audiences, &mesh.trust_domain)?;
    Ok(vec![Arc::new(verifier)])
}

fn serving_names(settings: &Settings) -> ServingNames {
    let istiod = ServingNames::istiod(&settings.namespace, Some(&settings.revision)).and_local();
    settings.tls_sans.iter().fold(istiod, |names, name| names.and(name))
}

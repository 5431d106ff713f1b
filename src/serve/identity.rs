//! Who signs, and who may call: from a folder, or from the API server (contract §4.2, §4.4).

use std::{path::PathBuf, sync::Arc};

use super::{
    kubernetes,
    runtime::Runtime,
    settings::Settings,
    tls::{ServingCertificate, ServingNames, TlsIdentity},
};
use crate::{
    api::mesh_config::MeshConfig,
    controllers::ca_secret::{CaOrigin, CaSecrets},
    identity::{
        authenticate::{Authenticator, KeySetVerifier, TokenVerifier, kubernetes::ClusterTokens},
        ca::{self, CaHandle, SigningCa},
        local_issuer::{DEFAULT_ISSUER, KEY_SET_FILE},
    },
};

/// Who signs, and who may call.
pub(super) struct Identity {
    /// The CA that signs.
    pub(super) ca: Arc<CaHandle>,
    /// Proves who calls.
    pub(super) authenticator: Arc<Authenticator>,
    /// Our own side of TLS.
    pub(super) tls: Arc<TlsIdentity>,
    source: CaSource,
    cluster_tokens: Option<Arc<ClusterTokens>>,
}

/// Where the CA came from, and newer ones come from.
enum CaSource {
    Folder(PathBuf),
    Secrets(Box<CaSecrets>, CaOrigin),
}

impl Identity {
    /// Loads the CA and the keys that tokens are checked with. Waits for the API server, if the CA is there.
    ///
    /// # Errors
    /// When the CA, the key set or the serving certificate is refused.
    pub(super) async fn load(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> anyhow::Result<Self> {
        let (ca, source) = load_ca(settings, mesh, runtime).await?;
        let ca = CaHandle::new(ca);
        let cluster_tokens = settings.source.api_server().map(|server| kubernetes::cluster_tokens(server, settings, mesh, runtime));
        let mut verifiers = local_verifiers(settings, mesh)?;
        verifiers.extend(cluster_tokens.iter().map(|tokens| Arc::clone(tokens) as Arc<dyn TokenVerifier>));
        let authenticator = Arc::new(Authenticator::new(mesh.trust_domain.clone(), verifiers, Arc::clone(&runtime.clock)));
        let certificate = match &settings.tls.files {
            Some(files) => ServingCertificate::Files(files.clone()),
            None => ServingCertificate::Ours(serving_names(settings)),
        };
        let tls = TlsIdentity::new(Arc::clone(&ca), certificate, settings.tls.protocol.clone(), Arc::clone(&runtime.clock))?;
        Ok(Self { ca, authenticator, tls, source, cluster_tokens })
    }

    /// Takes newer CAs over, renews our own certificate and fetches token keys, until shutdown.
    pub(super) fn keep(&self, runtime: &Runtime) {
        let (tasks, clock) = (&runtime.tasks, &runtime.clock);
        tasks.spawn(Arc::clone(&self.tls).keep_fresh(tasks.shutdown.clone()));
        let ca = Arc::clone(&self.ca);
        match &self.source {
            CaSource::Folder(folder) => {
                let metrics = runtime.metrics.ca.clone();
                tasks.spawn(ca::watch(folder.clone(), ca, Arc::clone(clock), metrics, tasks.shutdown.clone()));
            }
            CaSource::Secrets(secrets, origin) => {
                tasks.spawn(CaSecrets::clone(secrets).keep(ca, *origin, tasks.shutdown.clone()));
            }
        }
        if let Some(tokens) = &self.cluster_tokens {
            tasks.spawn(Arc::clone(tokens).keep_keys(Arc::clone(clock), tasks.shutdown.clone()));
        }
    }
}

/// Prefers a folder that holds a CA; it is where the chart mounts Secret `cacerts`.
async fn load_ca(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> anyhow::Result<(SigningCa, CaSource)> {
    let folder = &settings.identity.ca_dir;
    if let Some(server) = settings.source.api_server()
        && !ca::holds_ca(folder)
    {
        let secrets = kubernetes::ca_secrets(server, settings, mesh, runtime);
        let (ca, origin) = secrets.load().await?;
        return Ok((ca, CaSource::Secrets(Box::new(secrets), origin)));
    }
    let ca = ca::load(folder, (runtime.clock)())?;
    ca.log_certificates();
    Ok((ca, CaSource::Folder(folder.clone())))
}

fn local_verifiers(settings: &Settings, mesh: &MeshConfig) -> anyhow::Result<Vec<Arc<dyn TokenVerifier>>> {
    let Some(folder) = &settings.identity.token_issuer_dir else { return Ok(Vec::new()) };
    let audiences = &settings.identity.token_audiences;
    let verifier = KeySetVerifier::open(&folder.join(KEY_SET_FILE), DEFAULT_ISSUER, audiences, &mesh.trust_domain)?;
    Ok(vec![Arc::new(verifier)])
}

fn serving_names(settings: &Settings) -> ServingNames {
    let istiod = ServingNames::istiod(&settings.instance.namespace, Some(&settings.instance.revision)).and_local();
    settings.tls.names.iter().fold(istiod, |names, name| names.and(name))
}

//! Who signs, and who may call: from a folder, or from the API server (contract §4.2, §4.4).

use std::{collections::BTreeSet, mem, path::PathBuf, sync::Arc};

use smol_str::SmolStr;
use tokio::sync::watch;

use super::{
    kubernetes,
    registration::Registration,
    runtime::Runtime,
    settings::{IdentitySettings, Settings},
    tls::{Authorities, SERVING_TTL, ServingCertificate, ServingNames, TlsIdentity},
};
use crate::{
    api::{mesh_config::MeshConfig, trust_bundle::TrustBundle},
    controllers::ca_secret::{CaOrigin, CaSecrets},
    identity::{
        authenticate::{Authenticator, KeySetVerifier, OpenIdTokens, TokenVerifier, kubernetes::ClusterTokens},
        ca::{self, CaHandle, Expiry, SelfSigned, SigningCa, StateFolder},
        impersonation::NodeAuthorizer,
        local_issuer::{DEFAULT_ISSUER, KEY_SET_FILE},
        service::Signing,
    },
    source::key_sets,
};

/// Where the chart mounts Secret `cacerts`.
const MOUNTED_CA: &str = "./etc/cacerts";

/// Who signs, and who may call.
pub(super) struct Identity {
    /// Our own CA; `None`: external signers sign everything.
    pub(super) ca: Option<Arc<CaHandle>>,
    /// Others who sign certificates of workloads.
    pub(super) registration: Option<Registration>,
    /// Proves who calls.
    pub(super) authenticator: Arc<Authenticator>,
    /// Our own side of TLS.
    pub(super) tls: Arc<TlsIdentity>,
    /// The trust domain of identities.
    pub(super) trust_domain: SmolStr,
    source: CaSource,
    cluster_tokens: Option<Arc<ClusterTokens>>,
    open_id: Option<Arc<OpenIdTokens>>,
}

/// Where the CA came from, and newer ones come from.
enum CaSource {
    Folder(PathBuf),
    Secrets(Box<CaSecrets>, CaOrigin),
    State(StateFolder),
    /// There is none.
    Nowhere,
}

impl Identity {
    /// Loads the CA and the keys that tokens are checked with. Waits for the API server, if the CA is there.
    ///
    /// # Errors
    /// When the CA, the key set or the serving certificate is refused.
    pub(super) async fn load(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> anyhow::Result<Self> {
        let registration = Registration::start(settings, mesh, runtime)?;
        let others_sign_all = registration.as_ref().is_some_and(|registration| registration.serving.is_some());
        let (ca, source) = if others_sign_all { (None, CaSource::Nowhere) } else { own_ca(settings, mesh, runtime).await? };
        let cluster_tokens = settings.source.api_server().map(|server| kubernetes::cluster_tokens(server, settings, mesh, runtime));
        let mut verifiers = local_verifiers(settings, mesh)?;
        let open_id = open_id_tokens(settings, mesh);
        verifiers.extend(open_id.iter().map(|tokens| Arc::clone(tokens) as Arc<dyn TokenVerifier>));
        let authenticator = Authenticator::new(mesh.trust_domain.clone(), verifiers, Arc::clone(&runtime.clock));
        let authenticator = match (settings.source.api_server(), &cluster_tokens) {
            (Some(server), Some(own)) => {
                authenticator.with_clusters(kubernetes::clusters(server, settings, mesh, runtime, Arc::clone(own)))
            }
            _ => authenticator,
        };
        let authenticator = Arc::new(match &ca {
            Some(ca) => authenticator.with_revocation(Arc::clone(ca)),
            None => authenticator,
        });
        let certificate = serving_certificate(settings, registration.as_ref(), runtime).await;
        let authorities = Authorities { own: ca.clone(), external: registration.as_ref().map(|registration| registration.roots.clone()) };
        let tls = TlsIdentity::new(authorities, certificate, settings.tls.protocol.clone(), Arc::clone(&runtime.clock))?;
        let trust_domain = mesh.trust_domain.clone();
        Ok(Self { ca, registration, authenticator, tls, trust_domain, source, cluster_tokens, open_id })
    }

    /// Returns who signs certificates of workloads.
    pub(super) fn signing(&self) -> Option<Signing> {
        let others = self.registration.as_ref().map(|registration| Signing::Others(Arc::clone(&registration.authority)));
        others.or_else(|| self.ca.clone().map(Signing::Ours))
    }

    /// Returns the PEM of the lists of revoked certificates, now and whenever they change; external signers have none.
    pub(super) fn revocation(&self) -> watch::Receiver<Arc<str>> {
        self.ca.as_ref().map_or_else(|| watch::Sender::new("".into()).subscribe(), |ca| ca.revocation())
    }

    /// Takes newer CAs over, renews our own certificate and fetches token keys, until shutdown.
    pub(super) fn keep(&self, runtime: &Runtime) {
        let (tasks, clock) = (&runtime.tasks, &runtime.clock);
        tasks.spawn(Arc::clone(&self.tls).keep_fresh(tasks.shutdown.clone()));
        if let Some(ca) = &self.ca {
            self.keep_ca(ca, runtime);
        }
        if let Some(registration) = &self.registration {
            registration.follow_mesh(runtime);
        }
        if let Some(tokens) = &self.open_id {
            tasks.spawn(Arc::clone(tokens).keep_keys(Arc::clone(clock), tasks.shutdown.clone()));
        }
        if let Some(tokens) = &self.cluster_tokens {
            tasks.spawn(Arc::clone(tokens).keep_keys(Arc::clone(clock), tasks.shutdown.clone()));
        }
    }
}

impl Identity {
    /// Takes newer versions of our own CA over, until shutdown.
    fn keep_ca(&self, ca: &Arc<CaHandle>, runtime: &Runtime) {
        self.watch_expiry(Arc::clone(ca), runtime);
        let (tasks, clock, ca) = (&runtime.tasks, &runtime.clock, Arc::clone(ca));
        match &self.source {
            CaSource::Nowhere => {}
            CaSource::Folder(folder) => {
                let metrics = runtime.metrics.ca.clone();
                tasks.spawn(ca::watch(folder.clone(), ca, Arc::clone(clock), metrics, tasks.shutdown.clone()));
            }
            CaSource::State(state) => {
                let metrics = runtime.metrics.ca.clone();
                tasks.spawn(state.clone().keep(ca, Arc::clone(clock), metrics, tasks.shutdown.clone()));
            }
            CaSource::Secrets(secrets, origin) => {
                tasks.spawn(CaSecrets::clone(secrets).keep(ca, *origin, tasks.shutdown.clone()));
            }
        }
    }

    /// Returns whose certificates count in this mesh.
    fn authorities(&self) -> Authorities {
        let external = self.registration.as_ref().map(|registration| registration.roots.clone());
        Authorities { own: self.ca.clone(), external }
    }

    /// Returns whom proxies trust because of these authorities, now and whenever that differs.
    pub(super) fn trust_bundle(&self, runtime: &Runtime) -> watch::Receiver<TrustBundle> {
        let authorities = self.authorities();
        let (sender, bundle) = watch::channel(authorities.trust_bundle());
        runtime.tasks.spawn_until_shutdown(async move {
            let mut changes = authorities.changes();
            loop {
                changes.next().await;
                let now = authorities.trust_bundle();
                sender.send_if_modified(|known| mem::replace(known, now.clone()) != now);
            }
        });
        bundle
    }

    /// Says what ends soon: in the log, and at the Secret that the CA comes from.
    fn watch_expiry(&self, ca: Arc<CaHandle>, runtime: &Runtime) {
        let secret = match &self.source {
            CaSource::Secrets(secrets, origin) => Some((secrets.events.clone(), origin.secret())),
            CaSource::Folder(_) | CaSource::State(_) | CaSource::Nowhere => None,
        };
        let tell = move |expiry: &Expiry| {
            if let Some((events, secret)) = &secret {
                events.tell(*secret, expiry.nearness.reason(), expiry.message());
            }
        };
        let clock = Arc::clone(&runtime.clock);
        runtime.tasks.spawn(ca::watch_expiry(ca, clock, tell, runtime.tasks.shutdown.clone()));
    }
}

/// Loads our own CA, with lists of revoked certificates that can be used.
async fn own_ca(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> anyhow::Result<(Option<Arc<CaHandle>>, CaSource)> {
    let (ca, source) = load_ca(settings, mesh, runtime).await?;
    if let Some(error) = ca.unusable_revocation() {
        anyhow::bail!("{error}; without it, who was revoked would be let in");
    }
    Ok((Some(CaHandle::new(ca)), source))
}

/// Returns where the certificate of our ports comes from. That of an external signer is waited for.
async fn serving_certificate(settings: &Settings, registration: Option<&Registration>, runtime: &Runtime) -> ServingCertificate {
    if let Some(files) = &settings.tls.files {
        return ServingCertificate::Files(files.clone());
    }
    let names = serving_names(settings);
    let signed = match registration {
        Some(registration) => registration.serving(names.clone(), SERVING_TTL, settings, runtime).await,
        None => None,
    };
    signed.map_or_else(|| ServingCertificate::Ours(names.and_local()), ServingCertificate::Signed)
}

/// Prefers a folder that holds a CA. Without one, the CA is that of the API server's Secrets, or a self-signed root of our own; but
/// a folder that somebody named for a control plane without an API server has to hold a CA.
async fn load_ca(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> anyhow::Result<(SigningCa, CaSource)> {
    let IdentitySettings { ca_dir, state_dir, self_signed_key, .. } = &settings.identity;
    let folder = ca_dir.clone().unwrap_or_else(|| PathBuf::from(MOUNTED_CA));
    let now = (runtime.clock)();
    match settings.source.api_server() {
        Some(server) if !ca::holds_ca(&folder) => {
            let secrets = kubernetes::ca_secrets(server, settings, mesh, runtime);
            let (ca, origin) = secrets.load().await?;
            return Ok((ca, CaSource::Secrets(Box::new(secrets), origin)));
        }
        None if ca_dir.is_none() && !ca::holds_ca(&folder) => {
            let self_signed = SelfSigned { key: *self_signed_key, ..SelfSigned::new(&mesh.trust_domain) };
            let state = StateFolder::new(state_dir, self_signed);
            return Ok((state.load(now)?, CaSource::State(state)));
        }
        _ => {}
    }
    let ca = ca::load(&folder, now)?;
    ca.log_certificates();
    Ok((ca, CaSource::Folder(folder)))
}

/// Returns the verifier of tokens of the issuer that whoever runs us has named: any address of theirs may be called.
fn open_id_tokens(settings: &Settings, mesh: &MeshConfig) -> Option<Arc<OpenIdTokens>> {
    let rule = settings.identity.jwt_rule.clone()?;
    let fetch = key_sets::fetch_anywhere(settings.key_sets.roots.clone());
    Some(OpenIdTokens::new(rule, &mesh.trust_domain, Arc::new(fetch)))
}

/// Returns who decides which proxies of nodes are given certificates of others; `None` if none is trusted.
pub(super) fn node_authorizer(settings: &Settings, mesh: &SmolStr, runtime: &Runtime) -> Option<NodeAuthorizer> {
    let trusted: BTreeSet<_> = settings.identity.trusted_node_accounts.iter().cloned().collect();
    let cluster = settings.cluster.cluster_id.as_str().into();
    (!trusted.is_empty()).then(|| NodeAuthorizer { trusted, cluster, trust_domain: mesh.clone(), worlds: runtime.worlds.subscribe() })
}

fn local_verifiers(settings: &Settings, mesh: &MeshConfig) -> anyhow::Result<Vec<Arc<dyn TokenVerifier>>> {
    let Some(folder) = &settings.identity.token_issuer_dir else {
        if settings.source.api_server().is_none() {
            tracing::info!(
                "nobody gets a certificate, because no token can be checked; for that make an issuer with `istiod-lite ca issuer`, and \
                 name its folder with --token-issuer-dir"
            );
        }
        return Ok(Vec::new());
    };
    let audiences = &settings.identity.token_audiences;
    let verifier = KeySetVerifier::open(&folder.join(KEY_SET_FILE), DEFAULT_ISSUER, audiences, &mesh.trust_domain)?;
    Ok(vec![Arc::new(verifier)])
}

/// Returns the names by which callers from elsewhere know us.
fn serving_names(settings: &Settings) -> ServingNames {
    let istiod = ServingNames::istiod(&settings.instance.namespace, Some(&settings.instance.revision));
    settings.tls.names.iter().fold(istiod, |names, name| names.and(name))
}

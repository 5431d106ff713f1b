//! External signers: who they are, by which roots they are known, and the way to them (`EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::sync::watch;

use super::{
    runtime::Runtime,
    settings::Settings,
    sources,
    tls::{ServingNames, SignedServing, SigningOrder},
};
use crate::{
    api::mesh_config::{CaCertificate, MeshConfig},
    controllers::certificate_requests::CertificateRequests,
    identity::{
        certificate::Certificate,
        metrics::CaMetrics,
        registration::{RegistrationAuthority, SignerName, SignerRoots},
    },
};

/// The cluster's CA, where every pod has it. It stands behind Kubernetes' own signers.
const CLUSTER_CA: &str = "./var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// How often files of roots are read again.
const POLL: Duration = Duration::from_secs(5);

/// The way to external signers.
#[derive(Clone)]
pub(super) struct Registration {
    /// Who hands requests over, and checks answers.
    pub(super) authority: Arc<RegistrationAuthority>,
    /// By what signers are known.
    pub(super) roots: watch::Receiver<Arc<SignerRoots>>,
    /// Who signs for our own ports; `None`: our own CA does.
    pub(super) serving: Option<SignerName>,
    /// What MeshConfig says of roots.
    entries: watch::Sender<Vec<CaCertificate>>,
}

impl Registration {
    /// Opens the way to the signers, if others are to sign.
    ///
    /// # Errors
    /// When there is no API server, or roots cannot be read.
    pub(super) fn start(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> anyhow::Result<Option<Self>> {
        let Some(wanted) = &settings.identity.registration else { return Ok(None) };
        let server = settings.source.api_server().context("EXTERNAL_CA needs an API server; --config-dir has none")?;
        let files = RootFiles {
            mounted: wanted.roots.clone(),
            cluster: wanted.choice.domain.is_none(),
            metrics: wanted.serving.as_ref().map(|_| runtime.metrics.ca.clone()),
        };
        let entries = watch::Sender::new(mesh.ca_certificates.clone());
        let known = watch::Sender::new(Arc::new(files.read(&mesh.ca_certificates)?));
        let (namespace, revision) = (&settings.instance.namespace, &settings.instance.revision);
        let metrics = runtime.metrics.controllers.clone();
        let (requests, tidying) = CertificateRequests::new(server.client.clone(), namespace, revision, wanted.patience, metrics);
        runtime.tasks.spawn_until_shutdown(tidying);
        let roots = known.subscribe();
        let authority = RegistrationAuthority::new(
            Arc::new(requests),
            wanted.choice.clone(),
            roots.clone(),
            settings.identity.issue,
            Arc::clone(&runtime.clock),
            runtime.metrics.ca.clone(),
        );
        runtime.tasks.spawn_until_shutdown(files.follow(entries.subscribe(), known));
        Ok(Some(Self { authority: Arc::new(authority), roots, serving: wanted.serving.clone(), entries }))
    }

    /// Takes over what MeshConfig says of signers' roots, now that the world is followed.
    pub(super) fn follow_mesh(&self, runtime: &Runtime) {
        let (entries, mut worlds) = (self.entries.clone(), runtime.worlds.subscribe());
        runtime.tasks.spawn_until_shutdown(async move {
            while worlds.changed().await.is_ok() {
                let mesh = Arc::clone(&worlds.borrow_and_update().mesh);
                entries.send_if_modified(|known| {
                    let differs = *known != mesh.ca_certificates;
                    if differs {
                        known.clone_from(&mesh.ca_certificates);
                    }
                    differs
                });
            }
        });
    }

    /// Reads MeshConfig again and again: while we wait for a certificate, its roots may be written there.
    async fn reread_mesh(&self, settings: &Settings) {
        loop {
            tokio::time::sleep(POLL).await;
            if let Ok(mesh) = sources::mesh_config(settings).await {
                self.entries.send_replace(mesh.ca_certificates);
            }
        }
    }

    /// Has the certificate of our ports signed, and keeps it fresh, if a signer is to do that. Waits for it.
    pub(super) async fn serving(
        &self,
        names: ServingNames,
        lifetime: Duration,
        settings: &Settings,
        runtime: &Runtime,
    ) -> Option<watch::Receiver<Arc<SignedServing>>> {
        let signer = self.serving.clone()?;
        let (authority, clock) = (Arc::clone(&self.authority), Arc::clone(&runtime.clock));
        let order = SigningOrder { authority, signer, dns_names: names.dns_names, lifetime, clock };
        let first = tokio::select! {
            first = order.first() => first,
            () = self.reread_mesh(settings) => return None,
        };
        let (current, newest) = watch::channel(Arc::new(first));
        runtime.tasks.spawn_until_shutdown(order.keep(self.roots.clone(), current));
        Some(newest)
    }
}

/// Where roots are read.
struct RootFiles {
    mounted: PathBuf,
    /// Whether the cluster's CA counts.
    cluster: bool,
    /// Where it is said when the first root ends, if there is no CA of our own to say it of.
    metrics: Option<CaMetrics>,
}

impl RootFiles {
    fn read(&self, entries: &[CaCertificate]) -> anyhow::Result<SignerRoots> {
        let cluster = if self.cluster { roots_in(Path::new(CLUSTER_CA))? } else { Vec::new() };
        Ok(SignerRoots { file: Arc::new(roots_in(&self.mounted)?), mesh: SignerRoots::of_mesh(entries), cluster: Arc::new(cluster) })
    }

    fn say_end(&self, roots: &SignerRoots) {
        let end = roots.all().iter().map(|root| root.not_after).min();
        if let (Some(metrics), Some(end)) = (&self.metrics, end) {
            metrics.set_certificates(end, end, 0);
        }
    }

    /// Takes newer roots over, for ever. While files cannot be read, the roots that are known stay.
    async fn follow(self, mut entries: watch::Receiver<Vec<CaCertificate>>, known: watch::Sender<Arc<SignerRoots>>) {
        let (mut logged, mut due) = (String::new(), tokio::time::interval(POLL));
        loop {
            tokio::select! {
                _ = due.tick() => {}
                Ok(()) = entries.changed() => {}
            }
            let written = entries.borrow_and_update().clone();
            let read = self.read(&written).map(|roots| roots.with_files_of(&known.borrow()));
            match read {
                Ok(roots) => {
                    logged.clear();
                    self.say_end(&roots);
                    let changed = known.send_if_modified(|known| {
                        let differs = **known != roots;
                        *known = Arc::new(roots);
                        differs
                    });
                    if changed {
                        tracing::info!("other roots of external signers are known now");
                    }
                }
                Err(error) if error.to_string() == logged => {}
                Err(error) => {
                    logged = error.to_string();
                    tracing::error!(%error, "the roots of external signers that are known stay");
                }
            }
        }
    }
}

/// Reads a file of roots; there need not be one.
fn roots_in(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
        Ok(text) => Certificate::all_from_pem(&text).with_context(|| file.display().to_string()),
    }
}

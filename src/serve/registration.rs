//! External signers: who they are, by which roots they are known, and the way to them (`EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API`).

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::watch;

use super::{
    runtime::Runtime,
    settings::{RegistrationSettings, Settings},
    tls::{ServingNames, SignedServing, SigningOrder},
};
use crate::{
    controllers::certificate_requests::CertificateRequests,
    identity::{
        certificate::Certificate,
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
}

impl Registration {
    /// Opens the way to the signers, if others are to sign.
    ///
    /// # Errors
    /// When there is no API server, or roots cannot be read.
    pub(super) fn start(settings: &Settings, runtime: &Runtime) -> anyhow::Result<Option<Self>> {
        let Some(wanted) = &settings.identity.registration else { return Ok(None) };
        let server = settings.source.api_server().context("EXTERNAL_CA needs an API server; --config-dir has none")?;
        let files = RootFiles::of(wanted);
        let known = watch::Sender::new(Arc::new(files.read()?));
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
        runtime.tasks.spawn_until_shutdown(files.follow(known));
        Ok(Some(Self { authority: Arc::new(authority), roots, serving: wanted.serving.clone() }))
    }

    /// Has the certificate of our ports signed, and keeps it fresh, if a signer is to do that. Waits for it.
    pub(super) async fn serving(
        &self,
        names: ServingNames,
        lifetime: Duration,
        runtime: &Runtime,
    ) -> Option<watch::Receiver<Arc<SignedServing>>> {
        let signer = self.serving.clone()?;
        let (authority, clock) = (Arc::clone(&self.authority), Arc::clone(&runtime.clock));
        let order = SigningOrder { authority, signer, dns_names: names.dns_names, lifetime, clock };
        let (current, newest) = watch::channel(Arc::new(order.first().await));
        runtime.tasks.spawn_until_shutdown(order.keep(self.roots.clone(), current));
        Some(newest)
    }
}

/// Where roots are read.
struct RootFiles {
    mounted: std::path::PathBuf,
    /// Whether the cluster's CA counts.
    cluster: bool,
}

impl RootFiles {
    fn of(settings: &RegistrationSettings) -> Self {
        Self { mounted: settings.roots.clone(), cluster: settings.choice.domain.is_none() }
    }

    fn read(&self) -> anyhow::Result<SignerRoots> {
        let cluster = if self.cluster { roots_in(Path::new(CLUSTER_CA))? } else { Vec::new() };
        Ok(SignerRoots { file: Arc::new(roots_in(&self.mounted)?), cluster: Arc::new(cluster), ..SignerRoots::default() })
    }

    /// Takes newer roots over, for ever. While files cannot be read, the roots that are known stay.
    async fn follow(self, known: watch::Sender<Arc<SignerRoots>>) {
        let mut logged = String::new();
        loop {
            tokio::time::sleep(POLL).await;
            match self.read() {
                Ok(roots) => {
                    logged.clear();
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

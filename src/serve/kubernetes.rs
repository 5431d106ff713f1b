//! What a control plane does only with an API server: it takes its CA from a Secret, has tokens checked, and, while it leads, keeps
//! objects and status in Kubernetes.

use std::sync::Arc;

use tokio::sync::watch;

use super::{runtime::Runtime, settings::Settings};
use crate::{
    api::mesh_config::MeshConfig,
    controllers::{Controllers, ca_rotation::Knowledge, ca_secret::CaSecrets, secret_events::SecretEvents},
    identity::{
        authenticate::kubernetes::{self, ClusterTokens},
        ca::SelfSigned,
    },
    source::kubernetes::Settings as ApiServer,
    status,
};

/// What of the CA is kept in Kubernetes.
pub(super) struct Authority {
    /// PEM of the roots by which clients verify us.
    pub(super) roots: watch::Receiver<Arc<str>>,
    /// PEM of the lists of revoked certificates; empty while there are none.
    pub(super) revocation: watch::Receiver<Arc<str>>,
    /// What control planes know of who trusts what.
    pub(super) knowledge: Arc<dyn Knowledge>,
}

/// Returns the Secrets that hold the CA.
pub(super) fn ca_secrets(server: &ApiServer, settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> CaSecrets {
    CaSecrets {
        client: server.client.clone(),
        namespace: settings.instance.namespace.clone(),
        self_signed: SelfSigned { key: settings.identity.self_signed_key, ..SelfSigned::new(&mesh.trust_domain) },
        clock: Arc::clone(&runtime.clock),
        metrics: runtime.metrics.controllers.clone(),
        ca_metrics: runtime.metrics.ca.clone(),
        events: SecretEvents {
            client: server.client.clone(),
            namespace: settings.instance.namespace.clone(),
            instance: settings.instance.name().to_owned(),
            clock: Arc::clone(&runtime.clock),
        },
    }
}

/// Returns the verifier of the cluster's service-account tokens.
pub(super) fn cluster_tokens(server: &ApiServer, settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> Arc<ClusterTokens> {
    let audiences = settings.identity.token_audiences.clone();
    let cluster = settings.cluster.cluster_id.as_str().into();
    let checks = kubernetes::Settings { audiences, cluster, ..kubernetes::Settings::new(&mesh.trust_domain) };
    ClusterTokens::new(server.client.clone(), runtime.worlds.subscribe(), checks, runtime.metrics.tokens.clone())
}

/// Runs for leadership until shutdown; the leader keeps what is ours in Kubernetes, and writes the status of users' objects. Does
/// nothing without an API server.
pub(super) fn keep_objects(settings: &Settings, runtime: &Runtime, authority: Authority) {
    let Some(server) = settings.source.api_server() else { return };
    let leads = start_controllers(server, settings, runtime, authority);
    start_status(server, settings, runtime, leads);
}

/// Starts leader election and controllers; the receiver says whether this process leads.
fn start_controllers(server: &ApiServer, settings: &Settings, runtime: &Runtime, authority: Authority) -> watch::Receiver<bool> {
    let controllers = Controllers {
        client: server.client.clone(),
        namespace: settings.instance.namespace.clone(),
        revision: settings.instance.revision.clone(),
        pod: settings.instance.pod.clone(),
        root_certificate: settings.controllers.root_certificate.clone(),
        revocation_name: settings.controllers.revocation.clone(),
        timing: settings.controllers.leadership,
        roots: authority.roots,
        revocation: authority.revocation,
        worlds: runtime.worlds.subscribe(),
        knowledge: authority.knowledge,
        clock: Arc::clone(&runtime.clock),
        metrics: runtime.metrics.controllers.clone(),
    };
    controllers.start(&runtime.tasks.tracker, &runtime.tasks.shutdown)
}

fn start_status(server: &ApiServer, settings: &Settings, runtime: &Runtime, leader: watch::Receiver<bool>) {
    let inputs = status::Inputs { findings: runtime.findings.subscribe(), refusals: runtime.ledger.refused_objects().subscribe(), leader };
    let settings = status::Settings {
        client: server.client.clone(),
        cluster: server.cluster.clone(),
        namespace: server.namespace.clone(),
        revision: server.revision.clone(),
        instance: settings.instance.name().to_owned(),
        clock: Arc::clone(&runtime.clock),
    };
    runtime.tasks.spawn(status::run(settings, inputs, runtime.metrics.status.clone(), runtime.tasks.shutdown.clone()));
}

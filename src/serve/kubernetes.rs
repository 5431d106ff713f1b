//! What a control plane does only with an API server: it takes its CA from a Secret, has tokens checked, and, while it leads, keeps
//! objects and status in Kubernetes.

use std::sync::Arc;

use smol_str::SmolStr;
use tokio::sync::watch;

use super::{
    runtime::Runtime,
    settings::{RemoteClusterSettings, Settings},
};
use crate::{
    api::mesh_config::MeshConfig,
    controllers::{
        Controllers,
        ca_rotation::Knowledge,
        ca_secret::CaSecrets,
        remote_clusters::{MakeVerifier, RemoteClusterSecrets},
        secret_events::SecretEvents,
    },
    identity::{
        authenticate::{
            Clusters,
            kubernetes::{self, ClusterTokens},
        },
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
        events: secret_events(server, settings, runtime),
    }
}

fn secret_events(server: &ApiServer, settings: &Settings, runtime: &Runtime) -> SecretEvents {
    SecretEvents {
        client: server.client.clone(),
        namespace: settings.instance.namespace.clone(),
        instance: settings.instance.name().to_owned(),
        clock: Arc::clone(&runtime.clock),
    }
}

/// Returns the verifier of our own cluster's service-account tokens.
pub(super) fn cluster_tokens(server: &ApiServer, settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> Arc<ClusterTokens> {
    let checks = token_settings(&settings.cluster.cluster_id, settings, mesh);
    ClusterTokens::new(server.client.clone(), runtime.worlds.subscribe(), checks, runtime.metrics.tokens.clone())
}

fn token_settings(cluster: &str, settings: &Settings, mesh: &MeshConfig) -> kubernetes::Settings {
    let audiences = settings.identity.token_audiences.clone();
    kubernetes::Settings { audiences, cluster: cluster.into(), ..kubernetes::Settings::new(&mesh.trust_domain) }
}

/// Returns the clusters whose callers are known: our own, whose tokens `own` checks, and those of the Secrets, which are followed from
/// now on.
pub(super) fn clusters(server: &ApiServer, settings: &Settings, mesh: &MeshConfig, runtime: &Runtime, own: Arc<ClusterTokens>) -> Clusters {
    let RemoteClusterSettings { aliases, insecure_options } = settings.identity.remote_clusters.clone();
    let (clusters, remote) = watch::channel(None);
    let id = SmolStr::new(&settings.cluster.cluster_id);
    let secrets = RemoteClusterSecrets {
        client: server.client.clone(),
        namespace: settings.instance.namespace.clone(),
        own: id.clone(),
        aliases: aliases.clone(),
        insecure_options,
        verifier: remote_verifier(settings, mesh, runtime),
        clusters,
        events: secret_events(server, settings, runtime),
        metrics: runtime.metrics.controllers.clone(),
    };
    runtime.tasks.spawn_until_shutdown(secrets.run());
    Clusters { own: id, aliases, tokens: own, remote }
}

/// Returns what makes the verifier of a remote cluster's tokens. No pod of such a cluster is known, so that each token is also shown to
/// its API server; its keys are fetched when a token comes, and keep from it what cannot be good.
fn remote_verifier(settings: &Settings, mesh: &MeshConfig, runtime: &Runtime) -> MakeVerifier {
    let checks = token_settings("", settings, mesh);
    let (worlds, metrics) = (runtime.worlds.subscribe(), runtime.metrics.tokens.clone());
    Box::new(move |cluster, client| {
        let checks = kubernetes::Settings { cluster: cluster.clone(), ..checks.clone() };
        ClusterTokens::new(client, worlds.clone(), checks, metrics.clone())
    })
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

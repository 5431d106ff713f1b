//! What we keep in Kubernetes: the CA's Secret, the root certificate in every namespace, the `caBundle` of our webhooks.
//!
//! What should be is computed from the [`World`], the CA and what a watch shows; what differs is written, each object at
//! most so often ([`pace`]). A watch that fails writes nothing: what is there stays.
//!
//! | Who | Keeps | How it is settled who writes |
//! |---|---|---|
//! | [`ca_secret`] | Secret `istio-ca-secret` | created once, replaced by resourceVersion: the slower replica reads |
//! | `root_certificates` | ConfigMap `istio-ca-root-cert` in each namespace | the leader, by Lease [`LEASE`] |
//! | `webhook_certificates` | `caBundle` of webhook configurations of our revision | every replica: all write the same |
//!
//! istiod elects the writer of its root certificates by a ConfigMap named like our Lease, so beside an istiod both write.
//! With one CA both write the same, and the second write of two changes nothing.
//!
//! Rights that this needs, with those of [`authenticate::kubernetes`](crate::identity::authenticate::kubernetes):
//!
//! | Rule | Resource | Verbs | Only | Reason |
//! |---|---|---|---|---|
//! | Role | secrets | get, list, watch | names `cacerts`, `istio-ca-secret` | the CA, read and watched by name |
//! | Role | secrets | create | | the first replica makes `istio-ca-secret`; a create cannot be limited to a name |
//! | Role | secrets | update | name `istio-ca-secret` | its root is renewed before it expires |
//! | Role | leases (coordination.k8s.io) | create | | the first replica makes the Lease |
//! | Role | leases (coordination.k8s.io) | get, update | name `istio-namespace-controller-election` | leadership is kept and released |
//! | ClusterRole | configmaps | list, watch, patch, create | name `istio-ca-root-cert` | server-side apply asks for create, with the name |
//! | ClusterRole | mutatingwebhookconfigurations, validatingwebhookconfigurations | list, watch, patch | | found by label: tags have names of their own |
//! | ClusterRole | tokenreviews (authentication.k8s.io) | create | | tokens that the keys and the watched pods cannot decide |
//! | ClusterRole | nonResourceURLs `/.well-known/openid-configuration`, `/openid/v1/jwks` | get | | the keys of the cluster's tokens; every service account has it by `system:service-account-issuer-discovery` |
//!
//! The Role is for our own namespace. Without a right, what needs it is retried, named in the log and counted.

pub mod ca_secret;
mod collected;
pub mod election;
mod metrics;
mod pace;
mod root_certificates;
mod webhook_certificates;

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    election::{Election, Timing, identity_outside_a_pod},
    root_certificates::RootCertificates,
    webhook_certificates::WebhookCertificates,
};
pub use self::{metrics::ControllerMetrics, root_certificates::DEFAULT_NAME as ROOT_CERTIFICATE};
use crate::{identity::Clock, mesh::world::World};

/// The Lease of the one who keeps root certificates (contract §8.2).
pub const LEASE: &str = "istio-namespace-controller-election";
/// Who wrote, in `managedFields`.
const FIELD_MANAGER: &str = "istiod-lite";

/// All that runs while the control plane does.
#[derive(Clone)]
pub struct Controllers {
    /// Asks the API server.
    pub client: Client,
    /// The namespace that we run in.
    pub namespace: String,
    /// Our revision; empty: `default`.
    pub revision: String,
    /// The pod that we run in; empty: a name is made up.
    pub pod: String,
    /// Name of the root certificates' ConfigMaps: [`ROOT_CERTIFICATE`] (`PILOT_CA_CERT_CONFIGMAP`).
    pub root_certificate: String,
    /// How fast leadership passes on.
    pub timing: Timing,
    /// PEM of the roots by which clients verify us.
    pub roots: watch::Receiver<Arc<str>>,
    /// The namespaces that there are.
    pub worlds: watch::Receiver<Arc<World>>,
    /// What time it is.
    pub clock: Clock,
    /// Counters.
    pub metrics: ControllerMetrics,
}

// === impl Controllers ===

impl Controllers {
    /// Starts all of them, until `shutdown`. The receiver says whether this process leads.
    pub fn start(self, tasks: &TaskTracker, shutdown: &CancellationToken) -> watch::Receiver<bool> {
        let (leads, campaign) = self.election().start(shutdown.clone());
        tasks.spawn(campaign);
        let root_certificates = RootCertificates {
            client: self.client.clone(),
            name: self.root_certificate.clone(),
            roots: self.roots.clone(),
            worlds: self.worlds.clone(),
            metrics: self.metrics.clone(),
        };
        let leader = leads.clone();
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(while_leading(leader, move || root_certificates.clone().run())));
        let revision = if self.revision.is_empty() { "default".to_owned() } else { self.revision };
        let webhooks = WebhookCertificates { client: self.client, revision, roots: self.roots, metrics: self.metrics };
        let (mutating, validating) = (webhooks.clone(), webhooks);
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(mutating.run::<MutatingWebhookConfiguration>()));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(validating.run::<ValidatingWebhookConfiguration>()));
        leads
    }

    fn election(&self) -> Election {
        Election {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            name: LEASE.into(),
            identity: if self.pod.is_empty() { identity_outside_a_pod() } else { self.pod.clone() },
            timing: self.timing,
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
        }
    }
}

impl std::fmt::Debug for Controllers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controllers").field("namespace", &self.namespace).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// Starts the work anew each time this process comes to lead, and drops it when it no longer does.
pub async fn while_leading<F: Future<Output = ()>>(mut leads: watch::Receiver<bool>, work: impl Fn() -> F) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            () = work() => {}
            lost = leads.wait_for(|leads| !*leads) => if lost.is_err() { return },
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

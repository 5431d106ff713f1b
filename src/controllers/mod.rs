//! Keeps our objects in Kubernetes: the CA's Secret, the root certificate in every namespace, the `caBundle` of our webhooks.
//!
//! What an object should be is computed from the [`World`], the CA and what a watch shows. An object that differs is written,
//! but only so often ([`rate_limit`]). While a watch fails nothing is written, so what is there stays.
//!
//! | Controller | Keeps | Who writes |
//! |---|---|---|
//! | [`ca_secret`] | Secret `istio-ca-secret` | the first replica; `resourceVersion` makes the slower ones read what it wrote |
//! | [`ca_rotation`] | the CA in Secret `cacerts`, when an annotation asks for the next one | the leader |
//! | `root_certificates` | ConfigMaps `istio-ca-root-cert` and, with a list of revoked certificates, `istio-ca-crl` in each namespace | the leader of Lease [`LEASE`] |
//! | [`remote_clusters`] | nothing: it follows Secrets with label `istio/multiCluster`, whose clusters' callers are known | |
//! | [`secret_events`] | Events on these Secrets: what was refused, what ends soon | every replica; one Event of a day says it |
//! | [`certificate_requests`] | CertificateSigningRequests, while an external signer has them | every replica its own; any of them deletes what was left over |
//! | `webhook_certificates` | `caBundle` of webhook configurations of our revision | every replica, since all write the same |
//!
//! istiod elects the writer of its root certificates by a ConfigMap that has the name of our Lease, so that both write when
//! they run side by side. With the same CA both write the same, and the second of two writes changes nothing.
//!
//! The rights that the controllers and [`authenticate::kubernetes`](crate::identity::authenticate::kubernetes) need:
//!
//! | Rule | Resource | Verbs | Only | Reason |
//! |---|---|---|---|---|
//! | Role | secrets | get, list, watch | names `cacerts`, `istio-ca-secret` | the CA is read and watched by name |
//! | Role | secrets | create | | the first replica makes `istio-ca-secret`; a create cannot be limited to a name |
//! | Role | secrets | update | names `cacerts`, `istio-ca-secret` | a step of a rotation is taken; a self-signed root is renewed before it expires |
//! | ClusterRole | secrets | list, watch | our namespace | the Secrets of remote clusters; gateways' certificates need the same right everywhere |
//! | ClusterRole | pods | list | | the other control planes, whose proxies this one does not know: they are asked before a step of a rotation |
//! | ClusterRole | events (events.k8s.io) | create | | Events on these Secrets |
//! | Role | leases (coordination.k8s.io) | create | | the first replica makes the Lease |
//! | Role | leases (coordination.k8s.io) | get, update | name `istio-namespace-controller-election` | leadership is kept and released |
//! | ClusterRole | configmaps | list, watch, patch, create | names `istio-ca-root-cert`, `istio-ca-crl` | server-side apply also needs create, with the name |
//! | ClusterRole | mutatingwebhookconfigurations, validatingwebhookconfigurations | list, watch, patch | | they are found by label, since tags have names of their own |
//! | ClusterRole | certificatesigningrequests (certificates.k8s.io) | create, get, watch, delete | only with an external signer | each certificate is such an object |
//! | ClusterRole | certificatesigningrequests/approval | update | only with an external signer | they are approved |
//! | ClusterRole | signers (certificates.k8s.io) | approve | names of the external signers | the API server asks for it, beside the right to approval |
//! | ClusterRole | tokenreviews (authentication.k8s.io) | create | | for tokens that the keys and the watched pods cannot decide |
//! | ClusterRole | subjectaccessreviews (authorization.k8s.io) | create | | whether a gateway's service account may read Secrets |
//! | ClusterRole | nonResourceURLs `/.well-known/openid-configuration`, `/openid/v1/jwks` | get | | the keys of the cluster's tokens; every service account has this right by `system:service-account-issuer-discovery` |
//!
//! The Role is for our own namespace. What needs a missing right is retried, named in the log and counted.

pub mod ca_rotation;
pub mod ca_secret;
pub mod certificate_requests;
pub mod election;
mod metrics;
mod rate_limit;
pub mod remote_clusters;
mod root_certificates;
pub mod secret_events;
mod store;
mod webhook_certificates;

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::Client;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    ca_rotation::{CaRotation, Knowledge},
    election::{Election, Timing, identity_outside_a_pod},
    root_certificates::{ROOTS, RootCertificates},
    webhook_certificates::WebhookCertificates,
};
pub use self::{
    metrics::ControllerMetrics,
    root_certificates::{DEFAULT_NAME as ROOT_CERTIFICATE, DEFAULT_REVOCATION_NAME as REVOCATION},
};
use crate::{
    identity::{Clock, ca::REVOCATION_FILE},
    mesh::world::World,
};

/// The Lease of the replica that keeps root certificates (contract §8.2).
pub const LEASE: &str = "istio-namespace-controller-election";
/// The name of the writer in `managedFields`.
const FIELD_MANAGER: &str = "istiod-lite";

/// The controllers that run as long as the control plane does.
#[derive(Clone)]
pub struct Controllers {
    /// The client of the API server.
    pub client: Client,
    /// The namespace that we run in.
    pub namespace: String,
    /// Our revision; empty for `default`.
    pub revision: String,
    /// The pod that we run in; if empty, a name is made up.
    pub pod: String,
    /// The name of the ConfigMaps with the root certificate (`PILOT_CA_CERT_CONFIGMAP`); [`ROOT_CERTIFICATE`] by default.
    pub root_certificate: String,
    /// The name of the ConfigMaps with revoked certificates (`PILOT_CRL_CONFIGMAP`); [`REVOCATION`] by default.
    pub revocation_name: String,
    /// How long leadership lasts.
    pub timing: Timing,
    /// The roots by which clients verify us, in PEM.
    pub roots: watch::Receiver<Arc<str>>,
    /// The lists of revoked certificates, in PEM; empty while there are none.
    pub revocation: watch::Receiver<Arc<str>>,
    /// The worlds, for their namespaces.
    pub worlds: watch::Receiver<Arc<World>>,
    /// What control planes know of who trusts what.
    pub knowledge: Arc<dyn Knowledge>,
    /// Returns the current time.
    pub clock: Clock,
    /// The counters.
    pub metrics: ControllerMetrics,
}

// === impl Controllers ===

impl Controllers {
    /// Starts all controllers, which work until `shutdown`. The receiver says whether this process is the leader.
    pub fn start(self, tasks: &TaskTracker, shutdown: &CancellationToken) -> watch::Receiver<bool> {
        let (leads, campaign) = self.election().start(shutdown.clone());
        tasks.spawn(campaign);
        for kept in self.config_maps() {
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(while_leading(leads.clone(), move || kept.clone().run())));
        }
        let rotation = CaRotation {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            knowledge: Arc::clone(&self.knowledge),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
        };
        let leader = leads.clone();
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(while_leading(leader, move || rotation.clone().run())));
        let revision = if self.revision.is_empty() { "default".to_owned() } else { self.revision };
        let webhooks = WebhookCertificates { client: self.client, revision, roots: self.roots, metrics: self.metrics };
        let (mutating, validating) = (webhooks.clone(), webhooks);
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(mutating.run::<MutatingWebhookConfiguration>()));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(validating.run::<ValidatingWebhookConfiguration>()));
        leads
    }

    /// Returns what every namespace has.
    fn config_maps(&self) -> [RootCertificates; 2] {
        let kept = |name: &str, key, text: &watch::Receiver<Arc<str>>| RootCertificates {
            client: self.client.clone(),
            name: name.to_owned(),
            key,
            text: text.clone(),
            worlds: self.worlds.clone(),
            metrics: self.metrics.clone(),
        };
        [kept(&self.root_certificate, ROOTS, &self.roots), kept(&self.revocation_name, REVOCATION_FILE, &self.revocation)]
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

/// Starts the work whenever this process becomes the leader, and drops it when it no longer is.
pub async fn while_leading<F: Future<Output = ()>>(mut leads: watch::Receiver<bool>, work: impl Fn() -> F) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            () = work() => {}
            lost = leads.wait_for(|leads| !*leads) => if lost.is_err() { return },
        }
    }
}

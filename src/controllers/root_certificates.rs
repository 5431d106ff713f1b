//! Keeps a ConfigMap in every namespace (contract §4.5), which the agents of pods read: `istio-ca-root-cert`, by which they trust the
//! control plane, and `istio-ca-crl`, by which their proxies refuse who was revoked.
//!
//! Only the leader writes them. It reads them first, so that a new leader, which finds all of them right, writes none.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use super::{ControllerMetrics, FIELD_MANAGER, rate_limit::RateLimit, store::WatchStore};
use crate::{mesh::world::World, timer::until};

/// The name of the ConfigMap, unless `PILOT_CA_CERT_CONFIGMAP` sets another.
pub const DEFAULT_NAME: &str = "istio-ca-root-cert";
/// The name of the ConfigMap with revoked certificates, unless `PILOT_CRL_CONFIGMAP` sets another.
pub const DEFAULT_REVOCATION_NAME: &str = "istio-ca-crl";
/// The entry with the roots.
pub(super) const ROOTS: &str = "root-cert.pem";
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// Namespaces without pods that have a sidecar.
const IGNORED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
/// The most writes at a time.
const AT_ONCE: usize = 8;
const CONTROLLER: &str = "root_certificates";

/// Keeps the ConfigMap in every namespace.
#[derive(Clone)]
pub(super) struct RootCertificates {
    pub(super) client: Client,
    pub(super) name: String,
    /// The entry in it.
    pub(super) key: &'static str,
    /// What is in that entry; while it is empty, nothing is written.
    pub(super) text: watch::Receiver<Arc<str>>,
    pub(super) worlds: watch::Receiver<Arc<World>>,
    pub(super) metrics: ControllerMetrics,
}

/// The parts of a ConfigMap that are kept, so that one comparison says whether it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RootConfigMap {
    labelled: bool,
    bundle: Option<Arc<str>>,
}

// === impl RootCertificates ===

impl RootCertificates {
    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        let selection = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = Box::pin(watcher(Api::<ConfigMap>::all(self.client.clone()), selection).default_backoff());
        let (mut found, mut limit) = (WatchStore::new(), RateLimit::<String>::new());
        let (mut wanted, mut namespaces) = (self.wanted(), self.worlds.borrow_and_update().namespaces.clone());
        let mut missing = BTreeSet::new();
        loop {
            let due = limit.next(&missing, Instant::now());
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => found.apply(event, |object| parts(object, self.key, &wanted)),
                    Some(Err(error)) => self.watch_failed(&error),
                    None => return,
                },
                Ok(()) = self.worlds.changed() => {
                    let now = self.worlds.borrow_and_update().namespaces.clone();
                    // Most changes of the world are not about namespaces.
                    if now.ptr_eq(&namespaces) {
                        continue;
                    }
                    namespaces = now;
                }
                Ok(()) = self.text.changed() => wanted = self.wanted(),
                () = until(due) => {
                    let now = Instant::now();
                    limit.forget_old(now);
                    let allowed: Vec<String> = missing.iter().filter(|namespace| limit.allows(namespace, now)).cloned().collect();
                    for namespace in self.write_all(allowed, &wanted).await {
                        found.set(&namespace, &self.name, wanted.clone());
                    }
                }
            }
            if found.is_complete() && wanted.bundle.as_ref().is_some_and(|text| !text.is_empty()) {
                missing = wrong(namespaces.keys().map(|name| name.as_str()), found.items(), &self.name, &wanted);
            }
        }
    }

    fn wanted(&mut self) -> RootConfigMap {
        RootConfigMap { labelled: true, bundle: Some(Arc::clone(&self.text.borrow_and_update())) }
    }

    /// Writes the ConfigMap in these namespaces, and returns those in which that succeeded.
    async fn write_all(&self, namespaces: Vec<String>, wanted: &RootConfigMap) -> Vec<String> {
        let writes = namespaces.into_iter().map(|namespace| async {
            let written = self.write(&namespace, wanted).await;
            written.then_some(namespace)
        });
        stream::iter(writes).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn write(&self, namespace: &str, wanted: &RootConfigMap) -> bool {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": self.name, "namespace": namespace, "labels": { LABEL.0: LABEL.1 } },
            "data": { self.key: wanted.bundle },
        });
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        match api.patch(&self.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await {
            Ok(_) => {
                self.metrics.count_root_write("success");
                info!(namespace, name = self.name, "ConfigMap for agents written");
                true
            }
            // The namespace is being deleted, or is gone and the world does not know it yet.
            Err(kube::Error::Api(status)) if status.code == 404 || status.has_cause("NamespaceTerminating") => {
                self.metrics.count_root_write("namespace_gone");
                debug!(namespace, name = self.name, "no ConfigMap for a namespace that is being deleted");
                false
            }
            Err(error) => {
                self.metrics.count_root_write("failure");
                warn!(namespace, name = self.name, %error, "ConfigMap for agents not written; trying again");
                false
            }
        }
    }

    fn watch_failed(&self, error: &watcher::Error) {
        self.metrics.count_watch_error(CONTROLLER);
        warn!(name = self.name, %error, "ConfigMaps for agents cannot be watched; none is written meanwhile");
    }
}

trait Causes {
    fn has_cause(&self, reason: &str) -> bool;
}

impl Causes for kube::core::Status {
    fn has_cause(&self, reason: &str) -> bool {
        self.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == reason)
    }
}

/// Returns the parts of a ConfigMap. A bundle that is the wanted one shares its memory.
fn parts(object: &ConfigMap, key: &str, wanted: &RootConfigMap) -> RootConfigMap {
    let text = object.data.as_ref().and_then(|data| data.get(key));
    let bundle = text.map(|text| match &wanted.bundle {
        Some(bundle) if **bundle == **text => Arc::clone(bundle),
        _ => text.as_str().into(),
    });
    RootConfigMap { labelled: object.labels().get(LABEL.0).is_some_and(|value| value == LABEL.1), bundle }
}

/// Returns the namespaces whose ConfigMap is not the wanted one.
fn wrong<'a>(
    namespaces: impl Iterator<Item = &'a str>,
    found: &BTreeMap<(String, String), RootConfigMap>,
    name: &str,
    wanted: &RootConfigMap,
) -> BTreeSet<String> {
    namespaces
        .filter(|namespace| !IGNORED.contains(namespace))
        .filter(|namespace| found.get(&((*namespace).to_owned(), name.to_owned())) != Some(wanted))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_be_is_compared_with_what_is() {
        let wanted = RootConfigMap { labelled: true, bundle: Some("new".into()) };
        let key = |namespace: &str| (namespace.to_owned(), DEFAULT_NAME.to_owned());
        let found = BTreeMap::from([
            (key("right"), wanted.clone()),
            (key("old"), RootConfigMap { bundle: Some("old".into()), ..wanted.clone() }),
            (key("empty"), RootConfigMap { bundle: None, ..wanted.clone() }),
            (key("unlabelled"), RootConfigMap { labelled: false, ..wanted.clone() }),
            (key("gone"), RootConfigMap { bundle: None, ..wanted.clone() }),
        ]);
        let namespaces = ["right", "old", "empty", "unlabelled", "new", "kube-system", "kube-public", "kube-node-lease"];
        let wrong = wrong(namespaces.into_iter(), &found, DEFAULT_NAME, &wanted);
        assert_eq!(wrong.iter().map(String::as_str).collect::<Vec<_>>(), ["empty", "kube-system", "new", "old", "unlabelled"]);
    }

    #[test]
    fn label_and_bundle_are_compared() {
        let wanted = RootConfigMap { labelled: true, bundle: Some("pem".into()) };
        let object = |value: serde_json::Value| serde_json::from_value::<ConfigMap>(value).unwrap();
        let right =
            object(json!({"metadata": {"labels": {"istio.io/config": "true", "x": "y"}}, "data": {"root-cert.pem": "pem", "a": "b"}}));
        assert_eq!(parts(&right, ROOTS, &wanted), wanted);
        for wrong in [json!({}), json!({"data": {"root-cert.pem": "pem"}}), json!({"metadata": {"labels": {"istio.io/config": "true"}}})] {
            assert_ne!(parts(&object(wrong), ROOTS, &wanted), wanted);
        }
    }
}

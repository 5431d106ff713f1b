//! ConfigMap `istio-ca-root-cert` in every namespace (contract §4.5): what a pod's agent trusts the control plane by.
//!
//! The leader alone writes them. It reads them first: a new leader finds all of them right and writes none.

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

use super::{ControllerMetrics, FIELD_MANAGER, collected::Collected, pace::Pace, until};
use crate::mesh::world::World;

/// The ConfigMap's name, unless another is chosen (`PILOT_CA_CERT_CONFIGMAP`).
pub const DEFAULT_NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// Nobody runs pods with a sidecar there.
const IGNORED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];
const AT_ONCE: usize = 8;
const CONTROLLER: &str = "root_certificates";

/// Keeps the ConfigMaps.
#[derive(Clone)]
pub(super) struct RootCertificates {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) roots: watch::Receiver<Arc<str>>,
    pub(super) worlds: watch::Receiver<Arc<World>>,
    pub(super) metrics: ControllerMetrics,
}

/// What matters of a ConfigMap: whether label and contents are as they should be is one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Essence {
    labelled: bool,
    bundle: Option<Arc<str>>,
}

// === impl RootCertificates ===

impl RootCertificates {
    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        let selection = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = Box::pin(watcher(Api::<ConfigMap>::all(self.client.clone()), selection).default_backoff());
        let (mut found, mut pace) = (Collected::new(), Pace::<String>::new());
        let (mut wanted, mut namespaces) = (self.wanted(), self.worlds.borrow_and_update().namespaces.clone());
        let mut missing = BTreeSet::new();
        loop {
            let due = pace.next(&missing, Instant::now());
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => found.take(event, |object| essence(object, &wanted)),
                    Some(Err(error)) => self.watch_failed(&error),
                    None => return,
                },
                Ok(()) = self.worlds.changed() => {
                    let now = self.worlds.borrow_and_update().namespaces.clone();
                    // Most worlds differ in other things.
                    if now.ptr_eq(&namespaces) {
                        continue;
                    }
                    namespaces = now;
                }
                Ok(()) = self.roots.changed() => wanted = self.wanted(),
                () = until(due) => {
                    let now = Instant::now();
                    pace.tidy(now);
                    let allowed: Vec<String> = missing.iter().filter(|namespace| pace.may(namespace, now)).cloned().collect();
                    for namespace in self.write_all(allowed, &wanted).await {
                        found.note(&namespace, &self.name, wanted.clone());
                    }
                }
            }
            if found.is_complete() {
                missing = wrong(namespaces.keys().map(|name| name.as_str()), found.items(), &self.name, &wanted);
            }
        }
    }

    fn wanted(&mut self) -> Essence {
        Essence { labelled: true, bundle: Some(Arc::clone(&self.roots.borrow_and_update())) }
    }

    /// The namespaces in which it worked.
    async fn write_all(&self, namespaces: Vec<String>, wanted: &Essence) -> Vec<String> {
        let writes = namespaces.into_iter().map(|namespace| async {
            let written = self.write(&namespace, wanted).await;
            written.then_some(namespace)
        });
        stream::iter(writes).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn write(&self, namespace: &str, wanted: &Essence) -> bool {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": self.name, "namespace": namespace, "labels": { LABEL.0: LABEL.1 } },
            "data": { KEY: wanted.bundle },
        });
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        match api.patch(&self.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await {
            Ok(_) => {
                self.metrics.count_root_write("success");
                info!(namespace, name = self.name, "root certificate written");
                true
            }
            // The namespace is being deleted, or is gone and the world does not show it yet.
            Err(kube::Error::Api(status)) if status.code == 404 || status.has_cause("NamespaceTerminating") => {
                self.metrics.count_root_write("namespace_gone");
                debug!(namespace, name = self.name, "no root certificate for a namespace that goes");
                false
            }
            Err(error) => {
                self.metrics.count_root_write("failure");
                warn!(namespace, name = self.name, %error, "ConfigMap of the root certificate not written; it is tried again");
                false
            }
        }
    }

    fn watch_failed(&self, error: &watcher::Error) {
        self.metrics.count_watch_error(CONTROLLER);
        warn!(name = self.name, %error, "ConfigMaps of the root certificate cannot be watched; nothing is written meanwhile");
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

/// Equal bundles are one in memory.
fn essence(object: &ConfigMap, wanted: &Essence) -> Essence {
    let text = object.data.as_ref().and_then(|data| data.get(KEY));
    let bundle = text.map(|text| match &wanted.bundle {
        Some(bundle) if **bundle == **text => Arc::clone(bundle),
        _ => text.as_str().into(),
    });
    Essence { labelled: object.labels().get(LABEL.0).is_some_and(|value| value == LABEL.1), bundle }
}

/// The namespaces whose ConfigMap is not as it should be.
fn wrong<'a>(
    namespaces: impl Iterator<Item = &'a str>,
    found: &BTreeMap<(String, String), Essence>,
    name: &str,
    wanted: &Essence,
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
        let wanted = Essence { labelled: true, bundle: Some("new".into()) };
        let key = |namespace: &str| (namespace.to_owned(), DEFAULT_NAME.to_owned());
        let found = BTreeMap::from([
            (key("right"), wanted.clone()),
            (key("old"), Essence { bundle: Some("old".into()), ..wanted.clone() }),
            (key("empty"), Essence { bundle: None, ..wanted.clone() }),
            (key("unlabelled"), Essence { labelled: false, ..wanted.clone() }),
            (key("gone"), Essence { bundle: None, ..wanted.clone() }),
        ]);
        let namespaces = ["right", "old", "empty", "unlabelled", "new", "kube-system", "kube-public", "kube-node-lease"];
        let wrong = wrong(namespaces.into_iter(), &found, DEFAULT_NAME, &wanted);
        assert_eq!(wrong.iter().map(String::as_str).collect::<Vec<_>>(), ["empty", "kube-system", "new", "old", "unlabelled"]);
    }

    #[test]
    fn the_essence_is_label_and_bundle() {
        let wanted = Essence { labelled: true, bundle: Some("pem".into()) };
        let object = |value: serde_json::Value| serde_json::from_value::<ConfigMap>(value).unwrap();
        let right =
            object(json!({"metadata": {"labels": {"istio.io/config": "true", "x": "y"}}, "data": {"root-cert.pem": "pem", "a": "b"}}));
        assert_eq!(essence(&right, &wanted), wanted);
        for wrong in [json!({}), json!({"data": {"root-cert.pem": "pem"}}), json!({"metadata": {"labels": {"istio.io/config": "true"}}})] {
            assert_ne!(essence(&object(wrong), &wanted), wanted);
        }
    }
}

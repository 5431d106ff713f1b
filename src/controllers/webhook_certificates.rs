//! Keeps the `caBundle` of our webhook configurations (contract §5.1, §5.6), the root by which the API server trusts us when
//! it calls.
//!
//! Every replica writes them, not only the leader: all replicas have the same root, so the second write of a change finds
//! nothing to do, and no pod should fail to start because the one replica that may repair a bundle is shutting down.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{ControllerMetrics, FIELD_MANAGER, rate_limit::RateLimit, store::WatchStore};
use crate::timer::until;

/// Keeps the bundles in all configurations of our revision.
#[derive(Clone)]
pub(super) struct WebhookCertificates {
    pub(super) client: Client,
    pub(super) revision: String,
    pub(super) roots: watch::Receiver<Arc<str>>,
    pub(super) metrics: ControllerMetrics,
}

/// A kind of webhook configuration.
pub(super) trait Configuration:
    Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// The suffix of the names of our webhooks.
    const SUFFIX: &str;
    /// The name in metrics and logs.
    const CONTROLLER: &str;
    /// Whether its webhooks validate. istiod also counts the writes of these separately.
    const VALIDATES: bool;
    /// Returns the name and client configuration of each webhook.
    fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookClientConfig)>;
}

impl Configuration for MutatingWebhookConfiguration {
    const SUFFIX: &str = "sidecar-injector.istio.io";
    const CONTROLLER: &str = "mutating_webhooks";
    const VALIDATES: bool = false;
    fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookClientConfig)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), &webhook.client_config))
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    const SUFFIX: &str = "validation.istio.io";
    const CONTROLLER: &str = "validating_webhooks";
    const VALIDATES: bool = true;
    fn webhooks(&self) -> impl Iterator<Item = (&str, &WebhookClientConfig)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), &webhook.client_config))
    }
}

/// The bundle of each of our webhooks in a configuration, by its name.
type Bundles = Vec<(String, Vec<u8>)>;

// === impl WebhookCertificates ===

impl WebhookCertificates {
    /// Works until it is dropped.
    pub(super) async fn run<C: Configuration>(mut self) {
        let api = Api::<C>::all(self.client.clone());
        let selection = watcher::Config::default().labels(&format!("istio.io/rev={}", self.revision));
        let mut events = Box::pin(watcher(api.clone(), selection).default_backoff());
        let (mut found, mut limit, mut failed) = (WatchStore::new(), RateLimit::<String>::new(), BTreeSet::new());
        loop {
            let bundle = self.roots.borrow_and_update().as_bytes().to_vec();
            let wrong = wrong(&found, &bundle);
            let due = limit.next(&wrong, Instant::now());
            tokio::select! {
                event = next::<C>(&mut events) => match event {
                    Some(Ok(event)) => found.apply(event, bundles),
                    Some(Err(error)) => {
                        self.metrics.count_watch_error(C::CONTROLLER);
                        warn!(controller = C::CONTROLLER, %error, "webhook configurations cannot be watched");
                    }
                    None => return,
                },
                Ok(()) = self.roots.changed() => {}
                () = until(due) => {
                    let now = Instant::now();
                    limit.forget_old(now);
                    let allowed: Vec<String> = wrong.into_iter().filter(|name| limit.allows(name, now)).collect();
                    for name in allowed {
                        if failed.remove(&name) {
                            self.metrics.count_patch_retry(&name);
                        }
                        let Some(present) = found.items().get(&(String::new(), name.clone())).cloned() else { continue };
                        match self.write::<C>(&api, &name, &present, &bundle).await {
                            true => found.set("", &name, with_bundle(present, &bundle)),
                            false => drop(failed.insert(name)),
                        }
                    }
                }
            }
        }
    }

    async fn write<C: Configuration>(&self, api: &Api<C>, name: &str, present: &Bundles, bundle: &[u8]) -> bool {
        self.metrics.count_patch_attempt(name);
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let written = api.patch(name, &parameters, &Patch::Strategic(patch(present, bundle))).await;
        if C::VALIDATES {
            self.metrics.count_validation_update(written.as_ref().err().map(reason));
        }
        match written {
            Ok(_) => {
                info!(name, controller = C::CONTROLLER, "caBundle written");
                true
            }
            Err(error) => {
                let reason = match &error {
                    kube::Error::Api(status) if status.code == 404 => "webhook_config_not_found",
                    _ => "webhook_update_failure",
                };
                self.metrics.count_patch_failure(name, reason);
                warn!(name, controller = C::CONTROLLER, %error, "caBundle not written; trying again");
                false
            }
        }
    }
}

/// Returns the reason in one word, as the API server gives it.
fn reason(error: &kube::Error) -> &str {
    match error {
        kube::Error::Api(status) if !status.reason.is_empty() => &status.reason,
        _ => "Unknown",
    }
}

async fn next<C>(
    events: &mut (impl Stream<Item = watcher::Result<watcher::Event<C>>> + Unpin),
) -> Option<watcher::Result<watcher::Event<C>>> {
    events.next().await
}

fn bundles<C: Configuration>(configuration: &C) -> Bundles {
    let bundle = |config: &WebhookClientConfig| config.ca_bundle.as_ref().map(|ByteString(bytes)| bytes.clone()).unwrap_or_default();
    let ours = configuration.webhooks().filter(|(name, _)| name.ends_with(C::SUFFIX));
    ours.map(|(name, config)| (name.to_owned(), bundle(config))).collect()
}

fn wrong(found: &WatchStore<Bundles>, bundle: &[u8]) -> Vec<String> {
    let is_wrong = |bundles: &Bundles| bundles.iter().any(|(_, present)| present != bundle);
    found.items().iter().filter(|(_, bundles)| is_wrong(bundles)).map(|((_, name), _)| name.clone()).collect()
}

fn with_bundle(present: Bundles, bundle: &[u8]) -> Bundles {
    present.into_iter().map(|(name, _)| (name, bundle.to_vec())).collect()
}

/// Makes a strategic merge patch, in which webhooks are merged by their names. If a webhook was removed in between, the patch
/// would add it without its rules, which the API server refuses; the watch then shows what there is.
fn patch(present: &Bundles, bundle: &[u8]) -> Value {
    let wrong = present.iter().filter(|(_, present)| present != bundle);
    let webhooks = wrong.map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": ByteString(bundle.to_vec())}}));
    json!({ "webhooks": webhooks.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_webhooks_with_another_bundle_are_written() {
        let webhook = |name: &str, bundle: &str| json!({"name": name, "clientConfig": {"caBundle": bundle}, "admissionReviewVersions": ["v1"], "sideEffects": "None"});
        let configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": {"name": "istio-sidecar-injector"},
            "webhooks": [
                webhook("rev.namespace.sidecar-injector.istio.io", "bmV3"),
                webhook("namespace.sidecar-injector.istio.io", "b2xk"),
                {"name": "object.sidecar-injector.istio.io", "clientConfig": {}, "admissionReviewVersions": ["v1"], "sideEffects": "None"},
                webhook("somebody.example.com", "b2xk"),
            ],
        }))
        .unwrap();
        let present = bundles(&configuration);
        assert_eq!(present.len(), 3);
        assert_eq!(
            patch(&present, b"new"),
            json!({"webhooks": [
                {"name": "namespace.sidecar-injector.istio.io", "clientConfig": {"caBundle": "bmV3"}},
                {"name": "object.sidecar-injector.istio.io", "clientConfig": {"caBundle": "bmV3"}},
            ]})
        );
        assert_eq!(patch(&with_bundle(present, b"new"), b"new"), json!({"webhooks": []}));
    }
}

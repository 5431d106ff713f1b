//! Takes the steps of a rotation that are asked for by an annotation of Secret `cacerts`, for people without a shell.
//!
//! The next CA stands in the Secret as `next-ca-cert.pem`, `next-ca-key.pem`, `next-cert-chain.pem` and `next-root-cert.pem`. Annotation
//! [`ASKED`] asks for a step, which the leader takes as soon as it breaks no connected proxy; [`SAID`] says how far that is. Whoever
//! takes the first annotation away withdraws the wish. All state is in the Secret, so that a new leader goes on where the last one was.
//! Each control plane knows of its own proxies: the leader asks all others before it takes a step, and takes none while one is silent.

mod wish;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{BoxFuture, try_join_all},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::wish::{Wish, outcome, stands};
use super::{ControllerMetrics, ca_secret::CACERTS};
use crate::identity::{
    Clock,
    rotation::{Material, NEXT_MARK, Report},
};

/// The annotation that asks for a step: `next` or `abort`, or one of them with `!` to break proxies by it.
pub const ASKED: &str = "istiod-lite.io/ca-rotate";
/// The annotation that says how far the rotation is, and what it waits for.
pub const SAID: &str = "istiod-lite.io/ca-rotation";

/// How often proxies are looked at while a step is waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const CONTROLLER: &str = "ca_rotation";

/// What control planes know of who trusts what.
pub trait Knowledge: Send + Sync {
    /// Returns what this process knows; `None` while it knows nothing.
    fn own(&self) -> Option<Report>;

    /// Asks another control plane of our namespace, at its pod's address. Without an answer the text says why.
    fn of(&self, address: IpAddr) -> BoxFuture<'_, Result<Report, String>>;
}

/// Takes the steps that are asked for.
#[derive(Clone)]
pub(super) struct CaRotation {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// The pod that we run in; empty outside a pod.
    pub(super) pod: String,
    pub(super) knowledge: Arc<dyn Knowledge>,
    pub(super) clock: Clock,
    pub(super) metrics: ControllerMetrics,
}

impl CaRotation {
    /// Works until it is dropped.
    pub(super) async fn run(self) {
        let selection = watcher::Config::default().fields(&format!("metadata.name={CACERTS}"));
        let mut events = Box::pin(watcher(self.secrets(), selection).default_backoff());
        let (mut newest, mut again): (Option<Secret>, _) = (None, Instant::now());
        loop {
            let waits = newest.as_ref().is_some_and(is_wished);
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret))) => newest = Some(secret),
                    Some(Ok(watcher::Event::Delete(_))) => newest = None,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => {
                        self.metrics.count_watch_error(CONTROLLER);
                        warn!(secret = CACERTS, %error, "the Secret cannot be watched; no step of a rotation is taken meanwhile");
                        continue;
                    }
                    None => return,
                },
                () = sleep_until(again), if waits => {}
            }
            again = Instant::now() + LOOK_AGAIN;
            if let Some(secret) = newest.as_ref().filter(|secret| concerns_us(secret))
                && let Some(written) = self.look_at(secret).await
            {
                newest = Some(written);
            }
        }
    }

    /// Takes the step that is wished for if it breaks nobody, and says how far that is. Returns what was written.
    async fn look_at(&self, secret: &Secret) -> Option<Secret> {
        let entries = secret.data.iter().flatten().map(|(name, ByteString(bytes))| (name.clone(), bytes.clone())).collect();
        let annotations = secret.metadata.annotations.clone().unwrap_or_default();
        let wish = annotations.get(ASKED).map(|text| Wish::parse(text));
        let wishes = wish.is_some();
        let reports = if wishes { self.reports().await } else { Ok(Vec::new()) };
        let outcome = outcome(Material::read(entries), wish, reports, (self.clock)());
        let mut said = BTreeMap::clone(&annotations);
        if wishes || !annotations.get(SAID).is_some_and(|before| stands(before, &outcome.said)) {
            said.insert(SAID.into(), outcome.said.clone());
        }
        if outcome.is_done {
            said.remove(ASKED);
        }
        let mut after = secret.clone();
        after.metadata.annotations = Some(said);
        if let Some(entries) = outcome.entries {
            after.data = Some(entries.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect());
        }
        if after == *secret {
            return None;
        }
        // Somebody else's change comes first, and is looked at next.
        match self.secrets().replace(CACERTS, &PostParams::default(), &after).await {
            Ok(written) => {
                info!(namespace = self.namespace, secret = CACERTS, said = outcome.said, "rotation of the CA");
                Some(written)
            }
            Err(error) => {
                warn!(namespace = self.namespace, secret = CACERTS, %error, "rotation of the CA: the Secret was not written");
                None
            }
        }
    }

    /// Returns what all control planes know.
    async fn reports(&self) -> Result<Vec<Report>, String> {
        let own = self.knowledge.own().ok_or("this control plane is not ready yet")?;
        let asked = self.others().await?.into_iter().map(|(name, address)| async move {
            let answer = self.knowledge.of(address).await;
            answer.map_err(|error| format!("the control plane {name} ({address}) does not say what its proxies trust: {error}"))
        });
        let mut reports = try_join_all(asked).await?;
        reports.push(own);
        Ok(reports)
    }

    /// Returns the other control planes of our namespace that may have proxies, whatever their revision.
    async fn others(&self) -> Result<Vec<(String, IpAddr)>, String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let found = pods.list(&ListParams::default().labels("app=istiod")).await;
        let found = found.map_err(|error| format!("pods of control planes cannot be listed: {error}"))?;
        Ok(found.items.into_iter().filter_map(|pod| address_of(pod, &self.pod)).collect())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn is_wished(secret: &Secret) -> bool {
    secret.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ASKED))
}

/// Returns whether there is anything to do or to say.
fn concerns_us(secret: &Secret) -> bool {
    let says = secret.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SAID));
    says || is_wished(secret) || secret.data.as_ref().is_some_and(|data| data.contains_key(NEXT_MARK))
}

/// Returns name and address of another pod than `own`. One that has ended has no proxies, and one without an address has none yet.
fn address_of(pod: Pod, own: &str) -> Option<(String, IpAddr)> {
    let (name, status) = (pod.metadata.name?, pod.status?);
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let address = status.pod_ip?.parse().ok()?;
    (!has_ended && name != own).then_some((name, address))
}

//! Takes the steps of a rotation that are asked for by an annotation of Secret `cacerts`, for people without a shell.
//!
//! The next CA stands in the Secret as `next-ca-cert.pem`, `next-ca-key.pem`, `next-cert-chain.pem` and `next-root-cert.pem`. Annotation
//! [`ASKED`] asks for a step, which the leader takes as soon as it breaks no connected proxy; [`SAID`] says how far that is. Whoever
//! takes the first annotation away withdraws the wish. All state is in the Secret, so that a new leader goes on where the last one was.

mod wish;

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
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

/// Returns what this process knows of who trusts what; `None` while it knows nothing.
pub type Knowledge = std::sync::Arc<dyn Fn() -> Option<Report> + Send + Sync>;

/// Takes the steps that are asked for.
#[derive(Clone)]
pub(super) struct CaRotation {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) knowledge: Knowledge,
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
        let others = if wishes { self.others().await } else { Ok(0) };
        let outcome = outcome(Material::read(entries), wish, || self.reports(others), (self.clock)());
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

    /// Returns what is known of all proxies.
    fn reports(&self, others: Result<usize, String>) -> Result<Vec<Report>, String> {
        match others? {
            0 => (self.knowledge)().map(|report| vec![report]).ok_or_else(|| "no CA is loaded yet".into()),
            others => Err(format!(
                "{others} other control planes run here, whose proxies this one does not know: scale to one, or name all of them to \
                 `istiod-lite ca rotate --secret {} --address … --address …`",
                self.namespace
            )),
        }
    }

    /// Counts the other control planes of our namespace, whatever their revision.
    async fn others(&self) -> Result<usize, String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let found = pods.list_metadata(&ListParams::default().labels("app=istiod")).await;
        found.map(|pods| pods.items.len().saturating_sub(1)).map_err(|error| format!("pods of control planes cannot be listed: {error}"))
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

//! Deletes certificate requests that are of no use any more: those that were answered or given up, and those that a process left
//! behind, which are found by their labels when nobody can be waiting for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{Labels, WATCH};
use crate::{
    backoff::{Backoff, random_unit},
    controllers::{ControllerMetrics, rate_limit::RateLimit},
    timer::until,
};

const CONTROLLER: &str = "certificate_requests";
/// The most deletions at a time.
const AT_ONCE: usize = 8;

/// Tidies up.
pub(super) struct Leftovers {
    pub(super) client: Client,
    pub(super) labels: Labels,
    /// How long somebody may wait for the answer to a request.
    pub(super) patience: Duration,
    pub(super) metrics: ControllerMetrics,
}

/// The requests that are there, as far as the watch has shown them.
#[derive(Debug)]
struct Requests {
    /// When each was seen first. The clock of the API server may be another than ours.
    seen: BTreeMap<String, Instant>,
    used: BTreeSet<String>,
    patience: Duration,
}

// === impl Leftovers ===

impl Leftovers {
    /// Works until it is dropped. `used`: names of requests that nobody waits for any more.
    pub(super) async fn run(self, mut used: mpsc::UnboundedReceiver<String>) {
        let (mut requests, mut limit) = (Requests::new(self.patience), RateLimit::<String>::new());
        let mut events = std::pin::pin!(self.events());
        loop {
            let now = Instant::now();
            let due: BTreeSet<String> = requests.due(now);
            let next = limit.next(&due, now).into_iter().chain(requests.next_leftover(now)).min();
            tokio::select! {
                name = used.recv() => match name {
                    Some(name) => { requests.used.insert(name); }
                    None => return,
                },
                Some(event) = events.next() => requests.apply(event),
                () = until(next) => {
                    let now = Instant::now();
                    limit.forget_old(now);
                    let allowed: Vec<String> = due.into_iter().filter(|name| limit.allows(name, now)).collect();
                    for name in self.delete_all(allowed, &requests).await {
                        requests.forget(&name);
                    }
                }
            }
        }
    }

    /// Returns the requests of this installation: those that are there, and then what becomes of them.
    ///
    /// A watch that begins anywhere shows what is there first, so that this needs no right to list.
    fn events(&self) -> impl futures::Stream<Item = WatchEvent<CertificateSigningRequest>> + Send {
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        let ours = WatchParams::default().labels(&self.labels.selector()).timeout(WATCH);
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let watches = stream::unfold((api, ours, backoff), move |(api, ours, mut backoff)| async move {
            sleep(backoff.next(random_unit())).await;
            let watched = api.watch(&ours, "").await;
            match &watched {
                Ok(_) => backoff.reset(),
                Err(error) => {
                    self.metrics.count_watch_error(CONTROLLER);
                    warn!(%error, "certificate requests that were left over cannot be found");
                }
            }
            let events = stream::iter(watched.ok()).flatten().filter_map(|event| std::future::ready(event.ok()));
            Some((events.boxed(), (api, ours, backoff)))
        });
        watches.flatten()
    }

    /// Deletes these, and returns the names of those that are gone.
    async fn delete_all(&self, names: Vec<String>, requests: &Requests) -> Vec<String> {
        let deletions = names.into_iter().map(|name| async {
            let why = if requests.used.contains(&name) { "used" } else { "left_over" };
            self.delete(&name, why).await.then_some(name)
        });
        stream::iter(deletions).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn delete(&self, name: &str, why: &str) -> bool {
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {
                self.metrics.count_request_deleted(why);
                match why {
                    "used" => debug!(name, "certificate request deleted"),
                    _ => info!(name, "certificate request deleted, for which nobody was waiting any more"),
                }
                true
            }
            Err(kube::Error::Api(status)) if status.code == 404 => true,
            Err(error) => {
                warn!(name, %error, "a certificate request is not deleted; trying again");
                false
            }
        }
    }
}

// === impl Requests ===

impl Requests {
    fn new(patience: Duration) -> Self {
        Self { seen: BTreeMap::new(), used: BTreeSet::new(), patience }
    }

    fn apply(&mut self, event: WatchEvent<CertificateSigningRequest>) {
        match event {
            WatchEvent::Added(request) | WatchEvent::Modified(request) => {
                self.seen.entry(request.name_any()).or_insert_with(Instant::now);
            }
            WatchEvent::Deleted(request) => self.forget(&request.name_any()),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
    }

    fn forget(&mut self, name: &str) {
        self.seen.remove(name);
        self.used.remove(name);
    }

    /// Returns how long a request may be there: whoever waits for it gives up within `patience`, and then deletes it.
    fn longest(&self) -> Duration {
        self.patience * 2
    }

    /// Returns those that are to be deleted.
    fn due(&self, now: Instant) -> BTreeSet<String> {
        let left_over = self.seen.iter().filter(|(_, seen)| **seen + self.longest() <= now).map(|(name, _)| name);
        left_over.chain(&self.used).cloned().collect()
    }

    /// Returns when the next one is left over.
    fn next_leftover(&self, now: Instant) -> Option<Instant> {
        self.seen.values().map(|seen| *seen + self.longest()).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.metadata.name = Some(name.to_owned());
        request
    }

    #[test]
    fn requests_are_deleted_when_they_were_used_or_nobody_can_wait_for_them() {
        let patience = Duration::from_secs(60);
        let mut requests = Requests::new(patience);
        requests.apply(WatchEvent::Added(named("a")));
        requests.apply(WatchEvent::Added(named("b")));
        let (now, seen) = (Instant::now(), requests.seen["a"]);
        assert!(requests.due(now).is_empty());
        requests.used.insert("b".into());
        assert_eq!(requests.due(now), BTreeSet::from(["b".to_owned()]));
        // The watch began again.
        requests.apply(WatchEvent::Added(named("a")));
        assert_eq!(requests.seen["a"], seen);
        assert_eq!(requests.next_leftover(now), Some(seen + 2 * patience));
        requests.apply(WatchEvent::Deleted(named("b")));
        assert_eq!(requests.due(seen + 2 * patience), BTreeSet::from(["a".to_owned()]));
        requests.forget("a");
        assert!(requests.due(seen + 3 * patience).is_empty() && requests.next_leftover(now).is_none());
    }
}

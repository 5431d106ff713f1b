//! The keys of issuers as a source: which are wanted is seen from the RequestAuthentications that pass by, and what was fetched joins
//! them as objects of a kind of its own.
//!
//! The last good keys stay while an issuer is away. The first world waits for the first keys, as long as they may take: proxies that
//! come back to a control plane that started again are not told for a moment that nobody's tokens are good.

mod client;
mod metrics;
mod networks;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use smol_str::SmolStr;
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
    time::{Instant, sleep},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};

use self::client::Client;
use super::{Change, SourceEvent};
use crate::{
    api::{Kind, Metadata, Object, ObjectKey, Spec, istio::RequestAuthentication, key_set::KeySet},
    backoff::{Backoff, random_unit},
    peer_text::PeerText,
    timer::until,
};

pub(crate) use self::{metrics::KeySetMetrics, networks::Networks};

/// How many issuers are asked at the same time: so many that those who never answer hold back nobody else's for long.
const AT_ONCE: usize = 64;
/// How many key sets are kept: all that the objects of a mesh may make us hold.
const MOST_SETS: usize = 1000;
/// How long it may take to fetch a document, if a rule does not say.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a rule may have us wait, and the first world for its first keys.
const LONGEST_PATIENCE: Duration = Duration::from_secs(15);
/// After which time the first failure is followed by another attempt.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How keys are fetched.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How often they are fetched again.
    pub refresh: Duration,
    /// Where they may be fetched from.
    pub networks: Networks,
    /// Names or addresses of the API server.
    pub api_server: Vec<String>,
    /// A file with root certificates that are trusted besides the system's.
    pub roots: Option<PathBuf>,
    /// Counters.
    pub metrics: KeySetMetrics,
}

/// Returns the events of other sources, with those about the keys that their objects want.
pub(crate) fn joined(
    settings: Settings,
    cluster: SmolStr,
    events: impl Stream<Item = SourceEvent> + Send + Unpin + 'static,
) -> impl Stream<Item = SourceEvent> + Send {
    let (sender, joined) = mpsc::channel(1);
    tokio::spawn(Follower::new(settings, cluster).run(events, sender));
    ReceiverStream::new(joined)
}

struct Follower {
    fetcher: Fetcher,
    cluster: SmolStr,
    /// Which keys each object wants, and how long they may take.
    wanted: BTreeMap<ObjectKey, BTreeMap<SmolStr, Duration>>,
    sets: BTreeMap<SmolStr, Followed>,
    fetched: mpsc::Receiver<(SmolStr, Result<SmolStr, String>)>,
    /// Until when the first world waits for first keys.
    waits_until: Option<Instant>,
}

/// A key set that is wanted.
struct Followed {
    /// What was sent of it; `None`: nothing yet, as it has not been fetched.
    known: Option<KeySet>,
    patience: Duration,
    task: Option<AbortHandle>,
}

impl Follower {
    fn new(settings: Settings, cluster: SmolStr) -> Self {
        let (results, fetched) = mpsc::channel(AT_ONCE);
        let fetcher = Fetcher {
            client: Client::new(settings.networks, settings.api_server, settings.roots),
            refresh: settings.refresh,
            metrics: settings.metrics,
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            results,
        };
        Self { fetcher, cluster, wanted: BTreeMap::new(), sets: BTreeMap::new(), fetched, waits_until: None }
    }

    /// Passes events on until nobody listens, or the sources end.
    async fn run(mut self, mut events: impl Stream<Item = SourceEvent> + Unpin, sender: mpsc::Sender<SourceEvent>) {
        loop {
            let passed: Vec<SourceEvent> = tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some(SourceEvent::Synced) => {
                        let longest = self.sets.values().map(|set| set.patience).max().unwrap_or_default();
                        // A configuration and a set, each with its patience.
                        self.waits_until = Some(Instant::now() + 2 * longest);
                        self.synced()
                    }
                    Some(SourceEvent::Changes(changes)) => {
                        let own = self.follow(&changes);
                        [changes, own].into_iter().filter(|changes| !changes.is_empty()).map(SourceEvent::Changes).collect()
                    }
                    Some(event) => vec![event],
                },
                Some((url, fetched)) = self.fetched.recv() => {
                    let changes = self.take(&url, fetched).map(|change| SourceEvent::Changes(vec![change]));
                    changes.into_iter().chain(self.synced()).collect()
                }
                () = until(self.waits_until) => {
                    self.waits_until = None;
                    vec![SourceEvent::Synced]
                }
            };
            for event in passed {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Returns that all is known that there was at the start, once it is and unless it was said.
    fn synced(&mut self) -> Vec<SourceEvent> {
        let waits = self.sets.values().any(|set| set.known.is_none());
        match self.waits_until {
            Some(_) if !waits => {
                self.waits_until = None;
                vec![SourceEvent::Synced]
            }
            _ => Vec::new(),
        }
    }

    /// Follows the keys that changed objects want, and lets go of those that nobody wants any more; returns what changes by that.
    fn follow(&mut self, changes: &[Change]) -> Vec<Change> {
        let mut differs = false;
        for change in changes.iter().filter(|change| change.key().kind == Kind::RequestAuthentication) {
            let now = match change {
                Change::Applied(object) => object.content().map(|content| wanted_by(content)).unwrap_or_default(),
                Change::Deleted(_) => BTreeMap::new(),
            };
            let before =
                if now.is_empty() { self.wanted.remove(change.key()) } else { self.wanted.insert(change.key().clone(), now.clone()) };
            differs |= before.unwrap_or_default() != now;
        }
        if differs { self.choose() } else { Vec::new() }
    }

    fn choose(&mut self) -> Vec<Change> {
        let mut wanted: BTreeMap<&SmolStr, Duration> = BTreeMap::new();
        for (url, patience) in self.wanted.values().flatten() {
            let longest = wanted.entry(url).or_default();
            *longest = (*longest).max(*patience);
        }
        let gone: BTreeSet<SmolStr> = self.sets.keys().filter(|url| !wanted.contains_key(url)).cloned().collect();
        let wanted: Vec<(SmolStr, Duration)> = wanted.into_iter().map(|(url, patience)| (url.clone(), patience)).collect();
        let mut changes = Vec::new();
        for url in gone {
            self.sets.remove(&url);
            changes.push(Change::Deleted(self.key(&url)));
        }
        let mut followed = self.sets.values().filter(|set| set.task.is_some()).count();
        for (url, patience) in wanted {
            let before = self.sets.get_mut(&url);
            if before.as_ref().is_some_and(|set| set.task.is_some() && set.patience == patience) {
                continue;
            }
            let is_followed = before.as_ref().is_some_and(|set| set.task.is_some());
            let known = before.and_then(|set| set.known.take());
            if followed >= MOST_SETS && !is_followed {
                let trouble = format!("there are {MOST_SETS} key sets already, which are all that are followed");
                let known = KeySet { keys: None, trouble: Some(trouble.into()) };
                changes.push(self.change(&url, known.clone()));
                self.sets.insert(url, Followed { known: Some(known), patience, task: None });
                continue;
            }
            followed += usize::from(!is_followed);
            let task = Some(tokio::spawn(self.fetcher.clone().keep(url.clone(), patience)).abort_handle());
            self.sets.insert(url, Followed { known, patience, task });
        }
        changes
    }

    /// Takes what was fetched; returns what changes by that.
    fn take(&mut self, url: &SmolStr, fetched: Result<SmolStr, String>) -> Option<Change> {
        let set = self.sets.get_mut(url)?;
        let now = match fetched {
            Ok(keys) => KeySet { keys: Some(keys), trouble: None },
            Err(why) => {
                let keys = set.known.as_ref().and_then(|known| known.keys.clone());
                KeySet { keys, trouble: Some(why.into()) }
            }
        };
        if set.known.as_ref() == Some(&now) {
            return None;
        }
        if let Some(why) = &now.trouble {
            let (url, why) = (PeerText::new(url), PeerText::new(why));
            tracing::warn!(%url, %why, kept = now.keys.is_some(), "keys of an issuer cannot be fetched");
        }
        set.known = Some(now.clone());
        Some(self.change(url, now))
    }

    fn key(&self, url: &SmolStr) -> ObjectKey {
        ObjectKey { cluster: self.cluster.clone(), kind: Kind::KeySet, namespace: SmolStr::default(), name: url.clone() }
    }

    fn change(&self, url: &SmolStr, set: KeySet) -> Change {
        let (key, spec) = (self.key(url), Spec::KeySet(Arc::new(set)));
        Change::Applied(Arc::new(Object { key, version: SmolStr::default(), metadata: Arc::<Metadata>::default(), spec }))
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn wanted_by(authentication: &RequestAuthentication) -> BTreeMap<SmolStr, Duration> {
    let mut wanted: BTreeMap<SmolStr, Duration> = BTreeMap::new();
    for rule in &authentication.rules {
        if let Some(url) = rule.keys_url() {
            let longest = wanted.entry(url).or_default();
            *longest = (*longest).max(rule.timeout.unwrap_or(PATIENCE).min(LONGEST_PATIENCE));
        }
    }
    wanted
}

/// Fetches key sets again and again.
#[derive(Clone)]
struct Fetcher {
    client: Client,
    refresh: Duration,
    metrics: KeySetMetrics,
    at_once: Arc<Semaphore>,
    results: mpsc::Sender<(SmolStr, Result<SmolStr, String>)>,
}

impl Fetcher {
    /// Fetches one set, at once, after each time of refreshing, and sooner after a failure.
    async fn keep(self, url: SmolStr, patience: Duration) {
        let mut backoff = Backoff::new(FIRST_RETRY.min(self.refresh), self.refresh);
        loop {
            let fetched = {
                let Ok(_turn) = self.at_once.acquire().await else { return };
                self.client.key_set(&url, patience).await
            };
            self.metrics.count(fetched.is_ok());
            let pause = match &fetched {
                Ok(_) => {
                    backoff.reset();
                    self.refresh.mul_f64(1.0 - random_unit() / 10.0)
                }
                Err(_) => backoff.next(random_unit()),
            };
            if self.results.send((url.clone(), fetched)).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests;

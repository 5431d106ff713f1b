//! The keys of issuers as a source: which are wanted is seen from the RequestAuthentications that pass by, and what was fetched joins
//! them as objects of a kind of its own.
//!
//! The last good keys stay while an issuer is away. The first world waits for the first keys, as long as they may take: proxies that
//! come back to a control plane that started again are not told for a moment that nobody's tokens are good.

mod client;
mod metrics;
mod networks;
mod shares;
mod turns;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use futures::future::BoxFuture;
use smol_str::SmolStr;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};

use self::{
    shares::{Wish, chosen, owners},
    turns::{AT_ONCE, Queue, Turns, turn},
};
use super::{
    Change, SourceEvent,
    fetched::{self, Attempt, Attempts, FetchTask},
};
use crate::{
    api::{Kind, ObjectKey, istio::RequestAuthentication, key_set::KeySet},
    peer_text::PeerText,
    timer::until,
};

pub(in crate::source) use self::client::Client;
pub(crate) use self::{metrics::KeySetMetrics, networks::Networks};

/// How many key sets are kept: all that the objects of a mesh may make us hold.
const MOST_SETS: usize = 1000;
/// How long it may take to fetch a document, if a rule does not say.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a rule may have us wait, and the first world for its first keys.
const LONGEST_PATIENCE: Duration = Duration::from_secs(15);

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

/// Returns what fetches the key set at a URL, or the one that the OpenID configuration there names. For URLs of whoever runs us: they
/// may lead anywhere.
pub(crate) fn fetch_anywhere(roots: Option<PathBuf>) -> impl Fn(String) -> BoxFuture<'static, Result<String, String>> + Send + Sync {
    let client = Client::new(None, Vec::new(), roots);
    move |url| {
        let client = client.clone();
        Box::pin(async move { client.key_set(&url, PATIENCE).await.map(String::from) })
    }
}

struct Follower {
    fetcher: Fetcher,
    cluster: SmolStr,
    /// Which keys each object wants, and how long they may take.
    wanted: BTreeMap<ObjectKey, BTreeMap<SmolStr, Duration>>,
    sets: BTreeMap<SmolStr, Followed>,
    turns: Turns,
    fetched: mpsc::Receiver<(SmolStr, Attempt)>,
    /// Until when the first world waits for first keys.
    waits_until: Option<Instant>,
}

/// A key set that is wanted.
struct Followed {
    /// What was sent of it; `None`: nothing yet, as it has not been fetched.
    known: Option<KeySet>,
    patience: Duration,
    /// What fetches it again and again; `None`: there is no room for it.
    task: Option<Fetching>,
}

/// A task, and where it waits for its turns.
struct Fetching {
    _task: FetchTask,
    queue: watch::Sender<Queue>,
}

impl Follower {
    fn new(settings: Settings, cluster: SmolStr) -> Self {
        let (results, fetched) = mpsc::channel(AT_ONCE);
        let fetcher = Fetcher {
            client: Client::new(Some(settings.networks), settings.api_server, settings.roots),
            refresh: settings.refresh,
            metrics: settings.metrics,
            results,
        };
        let (wanted, sets, turns) = (BTreeMap::new(), BTreeMap::new(), Turns::default());
        Self { fetcher, cluster, wanted, sets, turns, fetched, waits_until: None }
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
                Some((url, attempt)) = self.fetched.recv() => {
                    let changes = self.take(&url, attempt).map(|change| SourceEvent::Changes(vec![change]));
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
        let wanted = self.wishes();
        let owners = owners(&wanted);
        let followed = |url: &str| self.sets.get(url).is_some_and(|set| set.task.is_some());
        let chosen = chosen(&owners, followed, MOST_SETS);
        let gone: Vec<SmolStr> = self.sets.keys().filter(|url| !wanted.contains_key(*url)).cloned().collect();
        let mut changes = Vec::new();
        for url in gone {
            self.sets.remove(&url);
            changes.push(Change::Deleted(fetched::key::<KeySet>(&self.cluster, &url)));
        }
        let namespaces = chosen.iter().filter_map(|url| owners.get(url).copied());
        self.turns.keep(namespaces, chosen.iter().copied());
        for (url, wish) in &wanted {
            match owners.get(url).filter(|_| chosen.contains(url)) {
                Some(owner) => self.fetch(url, wish.patience, owner),
                None => changes.extend(self.leave(url, wish.patience)),
            }
        }
        changes
    }

    /// Returns what all objects together want.
    fn wishes(&self) -> BTreeMap<SmolStr, Wish> {
        let mut wanted: BTreeMap<SmolStr, Wish> = BTreeMap::new();
        for (object, urls) in &self.wanted {
            for (url, patience) in urls {
                let wish = wanted.entry(url.clone()).or_default();
                wish.patience = wish.patience.max(*patience);
                wish.namespaces.insert(object.namespace.clone());
            }
        }
        wanted
    }

    /// Has a set fetched, for this namespace.
    fn fetch(&mut self, url: &SmolStr, patience: Duration, owner: &SmolStr) {
        let queue = self.turns.queue(owner, url);
        let before = self.sets.get_mut(url);
        if let Some(task) = before.as_ref().filter(|set| set.patience == patience).and_then(|set| set.task.as_ref()) {
            task.queue.send_if_modified(|now| {
                *now != queue && {
                    *now = queue;
                    true
                }
            });
            return;
        }
        let known = before.and_then(|set| set.known.take());
        let (queue, waits_in) = watch::channel(queue);
        let task = FetchTask::begin(self.fetcher.clone().keep(url.clone(), patience, waits_in));
        self.sets.insert(url.clone(), Followed { known, patience, task: Some(Fetching { _task: task, queue }) });
    }

    /// Lets a set be that there is no room for; returns what changes by that. Keys that were fetched stay.
    fn leave(&mut self, url: &SmolStr, patience: Duration) -> Option<Change> {
        let before = self.sets.get_mut(url);
        if before.as_ref().is_some_and(|set| set.task.is_none()) {
            return None;
        }
        let trouble = format!("there are {MOST_SETS} key sets already, which are all that are followed; namespaces with few go first");
        let keys = before.and_then(|set| set.known.take()).and_then(|known| known.keys);
        let known = KeySet { keys, trouble: Some(trouble.into()) };
        let change = fetched::applied(&self.cluster, url, known.clone());
        self.sets.insert(url.clone(), Followed { known: Some(known), patience, task: None });
        Some(change)
    }

    /// Takes what was fetched; returns what changes by that.
    fn take(&mut self, url: &SmolStr, attempt: Attempt) -> Option<Change> {
        let now = fetched::learn(&mut self.sets.get_mut(url)?.known, attempt)?;
        if let Some(why) = &now.trouble {
            let (url, why) = (PeerText::new(url), PeerText::new(why));
            tracing::warn!(%url, %why, kept = now.keys.is_some(), "keys of an issuer cannot be fetched");
        }
        Some(fetched::applied(&self.cluster, url, now))
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
    results: mpsc::Sender<(SmolStr, Attempt)>,
}

impl Fetcher {
    /// Fetches one set, at once, after each time of refreshing, and sooner after a failure.
    async fn keep(self, url: SmolStr, patience: Duration, mut queue: watch::Receiver<Queue>) {
        let mut attempts = Attempts::new(url.clone(), self.refresh, self.results);
        loop {
            let attempt = {
                let Some(_turn) = turn(&mut queue).await else { return };
                self.client.key_set(&url, patience).await
            };
            self.metrics.count(attempt.is_ok());
            if !attempts.hand_on(attempt).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Trust bundles as a source: the roots of our own CA, and those that other meshes publish where MeshConfig says (`spiffeBundleUrl`).
//! They join the events of other sources as objects of a kind of their own.
//!
//! The last good roots stay while whoever publishes them is away, or answers something else. The first world waits for the first
//! roots, but not for ever: proxies that come back to a control plane that started again keep whom they trust.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use smol_str::SmolStr;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};

use super::{
    Change, SourceEvent,
    fetched::{self, Attempt, Attempts, FetchTask},
    key_sets::Client,
};
use crate::{
    api::{
        Kind, ObjectKey,
        mesh_config::{MeshConfig, RootsFrom},
        trust_bundle::{self, OWN, TrustBundle},
    },
    peer_text::PeerText,
    timer::until,
};

/// How many bundles are followed.
const MOST_BUNDLES: usize = 100;

/// How bundles are had.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// That of our own CA, now and whenever it differs; `None`: proxies are told of none.
    pub own: Option<watch::Receiver<TrustBundle>>,
    /// How often those of others are fetched again.
    pub refresh: Duration,
    /// How long it may take to fetch one, and the first world to wait for all.
    pub patience: Duration,
    /// A file with root certificates that are trusted besides the system's when a bundle is fetched.
    pub web_roots: Option<PathBuf>,
}

/// Returns the events of other sources, with those about the bundles that MeshConfig wants.
pub(crate) fn joined(
    settings: Settings,
    cluster: SmolStr,
    events: impl Stream<Item = SourceEvent> + Send + Unpin + 'static,
) -> impl Stream<Item = SourceEvent> + Send + Unpin {
    let (sender, joined) = mpsc::channel(1);
    tokio::spawn(Follower::new(settings, cluster).run(events, sender));
    ReceiverStream::new(joined)
}

struct Follower {
    fetcher: Fetcher,
    cluster: SmolStr,
    own: Option<watch::Receiver<TrustBundle>>,
    /// The URLs that each MeshConfig names.
    wanted: BTreeMap<ObjectKey, BTreeSet<SmolStr>>,
    bundles: BTreeMap<SmolStr, Followed>,
    fetched: mpsc::Receiver<(SmolStr, Attempt)>,
    /// Until when the first world waits for first roots.
    waits_until: Option<Instant>,
}

/// A bundle that is wanted.
struct Followed {
    /// What was sent of it; `None`: nothing yet, as it has not been fetched.
    known: Option<TrustBundle>,
    /// What fetches it again and again; `None`: there is no room for it.
    _task: Option<FetchTask>,
}

impl Follower {
    fn new(settings: Settings, cluster: SmolStr) -> Self {
        let (results, fetched) = mpsc::channel(1);
        // Whoever writes MeshConfig runs the mesh: their URLs may lead anywhere.
        let fetcher = Fetcher {
            client: Client::new(None, Vec::new(), settings.web_roots),
            refresh: settings.refresh,
            patience: settings.patience,
            results,
        };
        Self { fetcher, cluster, own: settings.own, wanted: BTreeMap::new(), bundles: BTreeMap::new(), fetched, waits_until: None }
    }

    /// Passes events on until nobody listens, or the sources end.
    async fn run(mut self, mut events: impl Stream<Item = SourceEvent> + Unpin, sender: mpsc::Sender<SourceEvent>) {
        let mut passed: Vec<SourceEvent> = self.own_bundle().into_iter().collect();
        loop {
            for event in passed {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            passed = tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some(SourceEvent::Synced) => {
                        self.waits_until = Some(Instant::now() + self.fetcher.patience);
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
                () = changed(self.own.as_mut()) => self.own_bundle().into_iter().collect(),
                () = until(self.waits_until) => {
                    self.waits_until = None;
                    vec![SourceEvent::Synced]
                }
            };
        }
    }

    fn own_bundle(&mut self) -> Option<SourceEvent> {
        let bundle = self.own.as_mut()?.borrow_and_update().clone();
        Some(SourceEvent::Changes(vec![fetched::applied(&self.cluster, OWN, bundle)]))
    }

    /// Returns that all is known that there was at the start, once it is and unless it was said.
    fn synced(&mut self) -> Vec<SourceEvent> {
        let waits = self.bundles.values().any(|bundle| bundle.known.is_none());
        if waits || self.waits_until.take().is_none() { Vec::new() } else { vec![SourceEvent::Synced] }
    }

    /// Follows the bundles that a changed MeshConfig wants, and lets go of those that none wants any more; returns what changes by that.
    fn follow(&mut self, changes: &[Change]) -> Vec<Change> {
        let is_wanted = |change: &&Change| self.own.is_some() && change.key().kind == Kind::MeshConfig;
        let written: Vec<&Change> = changes.iter().filter(is_wanted).collect();
        if written.is_empty() {
            return Vec::new();
        }
        for change in written {
            match change {
                Change::Applied(object) => {
                    self.wanted.insert(object.key.clone(), object.content::<MeshConfig>().map(|mesh| urls(mesh)).unwrap_or_default());
                }
                Change::Deleted(key) => _ = self.wanted.remove(key),
            }
        }
        let wanted: BTreeSet<SmolStr> = self.wanted.values().flatten().cloned().collect();
        let gone: Vec<SmolStr> = self.bundles.keys().filter(|url| !wanted.contains(*url)).cloned().collect();
        let mut changes = Vec::new();
        for url in gone {
            self.bundles.remove(&url);
            changes.push(Change::Deleted(fetched::key::<TrustBundle>(&self.cluster, &url)));
        }
        for url in wanted {
            if !self.bundles.contains_key(&url) {
                changes.extend(self.begin(url));
            }
        }
        changes
    }

    /// Begins to follow a bundle; returns what changes by that.
    fn begin(&mut self, url: SmolStr) -> Option<Change> {
        if self.bundles.len() < MOST_BUNDLES {
            let task = FetchTask::begin(self.fetcher.clone().keep(url.clone()));
            self.bundles.insert(url, Followed { known: None, _task: Some(task) });
            return None;
        }
        let trouble = format!("there are {MOST_BUNDLES} bundles already, which are all that are followed");
        let known = TrustBundle { trouble: Some(trouble.into()), ..TrustBundle::default() };
        self.bundles.insert(url.clone(), Followed { known: Some(known.clone()), _task: None });
        Some(fetched::applied(&self.cluster, &url, known))
    }

    /// Takes what was fetched; returns what changes by that.
    fn take(&mut self, url: &SmolStr, attempt: Attempt) -> Option<Change> {
        let now = fetched::learn(&mut self.bundles.get_mut(url)?.known, attempt)?;
        let shown = PeerText::new(url);
        match &now.trouble {
            Some(why) => {
                tracing::warn!(url = %shown, why = %PeerText::new(why), kept = now.roots.is_some(), "roots of another mesh cannot be fetched");
            }
            None => tracing::info!(url = %shown, "other roots of another mesh are trusted now"),
        }
        Some(fetched::applied(&self.cluster, url, now))
    }
}

fn urls(mesh: &MeshConfig) -> BTreeSet<SmolStr> {
    let at = |roots: &RootsFrom| match roots {
        RootsFrom::BundleAt(url) => Some(url.clone()),
        RootsFrom::Pem(_) => None,
    };
    mesh.ca_certificates.iter().filter_map(|entry| at(&entry.roots)).collect()
}

/// Waits for another value; for ever if there is none to come.
async fn changed(own: Option<&mut watch::Receiver<TrustBundle>>) {
    if let Some(own) = own
        && own.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Fetches bundles again and again.
#[derive(Clone)]
struct Fetcher {
    client: Client,
    refresh: Duration,
    patience: Duration,
    results: mpsc::Sender<(SmolStr, Attempt)>,
}

impl Fetcher {
    /// Fetches one bundle, at once, after each time of refreshing, and sooner after a failure.
    async fn keep(self, url: SmolStr) {
        let mut attempts = Attempts::new(url.clone(), self.refresh, self.results);
        loop {
            let document = self.client.document(&url, self.patience).await;
            let attempt = document.and_then(|text| trust_bundle::of_document(&text).map_err(|why| format!("{url}: {why}")));
            if !attempts.hand_on(attempt).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

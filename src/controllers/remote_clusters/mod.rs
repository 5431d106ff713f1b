//! Remote clusters by their Secrets (contract §9): in our namespace, with label `istio/multiCluster: "true"`, a kubeconfig for each
//! cluster. Of such a cluster the tokens of callers are checked; its Services and endpoints are not read yet, and its Secret is told so.
//!
//! Secrets come, change and go. One that cannot be used harms no other, and what was known of its cluster stays. No Secret of another
//! namespace counts: a kubeconfig makes us call an address, and believe what is said there about who is calling.

mod client;
mod kubeconfig;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use smol_str::SmolStr;
use tokio::sync::watch;
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_128;

use self::{
    client::client_of,
    table::{Entries, Entry, RemoteSecret, entries, remote_secret},
};
use super::{ControllerMetrics, secret_events::SecretEvents, store::WatchStore};
use crate::identity::authenticate::{RemoteClusters, TokenVerifier};

/// The label of the Secrets.
const LABEL: &str = "istio/multiCluster=true";
const CONTROLLER: &str = "remote_clusters";
/// What a cluster's Secret is told as long as nothing but its callers is known.
const ONLY_CALLERS: &str = "its callers are known by their tokens, but its Services, endpoints and Secrets are not read yet";

/// Makes what checks the tokens of a cluster, by its id and a client of its API server.
pub type MakeVerifier = Box<dyn Fn(&SmolStr, Client) -> Arc<dyn TokenVerifier> + Send + Sync>;

/// Follows the Secrets.
pub struct RemoteClusterSecrets {
    /// The client of our own API server.
    pub client: Client,
    /// Our namespace.
    pub namespace: String,
    /// The id of our own cluster.
    pub own: SmolStr,
    /// Other names of clusters, each with the id that it stands for.
    pub aliases: BTreeMap<SmolStr, SmolStr>,
    /// What kubeconfigs may ask for although it is dangerous (`PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS`).
    pub insecure_options: BTreeSet<SmolStr>,
    /// Makes what checks tokens.
    pub verifier: MakeVerifier,
    /// Where the clusters are told; nothing until all Secrets have been read.
    pub clusters: watch::Sender<Option<Arc<RemoteClusters>>>,
    /// Events on the Secrets.
    pub events: SecretEvents,
    /// The counters.
    pub metrics: ControllerMetrics,
}

/// A cluster in effect.
struct Known {
    entry: Entry,
    /// Of the kubeconfig; the kubeconfig itself is not kept.
    digest: u128,
    verifier: Arc<dyn TokenVerifier>,
}

/// What is said at a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    entry: Entry,
    reason: &'static str,
    text: String,
}

// === impl RemoteClusterSecrets ===

impl RemoteClusterSecrets {
    /// Follows the Secrets for ever.
    pub async fn run(self) {
        self.metrics.set_remote_clusters(0, 0);
        let selection = watcher::Config::default().labels(LABEL);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut watched = kube::runtime::watcher(secrets, selection).default_backoff().boxed();
        let mut keeper = Keeper { secrets: self, known: BTreeMap::new(), told: BTreeSet::new() };
        let mut store = WatchStore::new();
        while let Some(event) = watched.next().await {
            match event {
                Ok(event) => {
                    keeper.count(&store, &event);
                    store.apply(event, remote_secret);
                    if store.is_complete() {
                        keeper.follow(&store).await;
                    }
                }
                Err(error) => keeper.watch_failed(&error),
            }
        }
    }
}

impl std::fmt::Debug for RemoteClusterSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteClusterSecrets").field("namespace", &self.namespace).field("own", &self.own).finish_non_exhaustive()
    }
}

struct Keeper {
    secrets: RemoteClusterSecrets,
    known: BTreeMap<SmolStr, Known>,
    told: BTreeSet<Note>,
}

// === impl Keeper ===

impl Keeper {
    /// Makes the clusters those of the Secrets.
    async fn follow(&mut self, store: &WatchStore<RemoteSecret>) {
        let RemoteClusterSecrets { own, aliases, .. } = &self.secrets;
        let secrets = store.items().iter().map(|((_, name), secret)| (name.as_str(), secret));
        let Entries { taken, refused } = entries(secrets, own, aliases);
        let mut notes: BTreeSet<Note> = refused.into_iter().map(|(entry, why)| Note::refused(entry, &why.to_string())).collect();
        let mut known = BTreeMap::new();
        for (cluster, (entry, kubeconfig)) in taken {
            let before = self.known.remove(&cluster).filter(|known| known.entry == entry);
            let digest = xxh3_128(kubeconfig);
            let now = match before {
                Some(before) if before.digest == digest => Some(before),
                before => match self.make(&entry, kubeconfig, digest).await {
                    Ok(made) => Some(made),
                    Err(why) => {
                        let kept = if before.is_some() {
                            "; the kubeconfig before it stays in use"
                        } else {
                            "; callers of the cluster are refused"
                        };
                        notes.insert(Note::refused(entry.clone(), &format!("{why}{kept}")));
                        before
                    }
                },
            };
            if let Some(now) = now {
                notes.insert(Note { entry, reason: "OnlyCallersAreKnown", text: ONLY_CALLERS.to_owned() });
                known.insert(cluster, now);
            }
        }
        self.put(known, notes);
    }

    fn make<'a>(&'a self, entry: &'a Entry, kubeconfig: &'a [u8], digest: u128) -> BoxFuture<'a, Result<Known, String>> {
        Box::pin(async move {
            let (client, server) = client_of(kubeconfig, &self.secrets.insecure_options).await.map_err(|error| error.to_string())?;
            let Entry { secret, cluster } = entry;
            info!(%secret, %cluster, server, "tokens of callers in a remote cluster are checked at its API server");
            Ok(Known { entry: entry.clone(), digest, verifier: (self.secrets.verifier)(cluster, client) })
        })
    }

    /// Puts clusters into effect, and says at their Secrets what was not said before.
    fn put(&mut self, known: BTreeMap<SmolStr, Known>, notes: BTreeSet<Note>) {
        for (cluster, Known { entry, .. }) in &self.known {
            if !known.contains_key(cluster) {
                info!(secret = %entry.secret, %cluster, "a remote cluster's Secret is gone: its callers are refused");
            }
        }
        self.known = known;
        let clusters: RemoteClusters = self.known.iter().map(|(id, known)| (id.clone(), Arc::clone(&known.verifier))).collect();
        let refused = notes.iter().filter(|note| note.reason == Note::REFUSED).count();
        self.secrets.metrics.set_remote_clusters(clusters.len(), refused);
        self.secrets.clusters.send_replace(Some(Arc::new(clusters)));
        for note in notes.difference(&self.told) {
            let Note { entry: Entry { secret, cluster }, reason, text } = note;
            warn!(namespace = self.secrets.namespace, %secret, %cluster, reason, "remote cluster: {text}");
            self.secrets.events.tell(secret.clone(), reason, format!("cluster {cluster}: {text}"));
        }
        self.told = notes;
    }

    /// Counts what a watch event says about a Secret, if it is new.
    fn count(&self, store: &WatchStore<RemoteSecret>, event: &Event<Secret>) {
        let kind = match event {
            Event::Init | Event::InitDone => return,
            Event::Delete(_) => "delete",
            Event::Apply(secret) | Event::InitApply(secret) => {
                let key = (secret.namespace().unwrap_or_default(), secret.name_any());
                match store.items().get(&key) {
                    None => "add",
                    Some(before) if *before == remote_secret(secret) => return,
                    Some(_) => "update",
                }
            }
        };
        self.secrets.metrics.count_remote_secret_event(kind);
    }

    fn watch_failed(&self, error: &watcher::Error) {
        self.secrets.metrics.count_watch_error(CONTROLLER);
        warn!(namespace = self.secrets.namespace, %error, "Secrets of remote clusters cannot be watched; those known stay");
    }
}

// === impl Note ===

impl Note {
    const REFUSED: &'static str = "Refused";

    fn refused(entry: Entry, why: &str) -> Self {
        Self { entry, reason: Self::REFUSED, text: why.to_owned() }
    }
}

//! A Kubernetes API server as the source: every kind is listed and then watched, slim.
//!
//! Losing the API server, a right, or a watch withdraws nothing (rule 8): a list counts when it is complete and comes
//! from the cluster that we know, and then only what differs from before is told.

mod ask;
mod backoff;
mod client;
mod collection;
mod decode;
mod follow;
mod interned;
mod keep;
mod kinds;
mod known;
mod layers;
mod lines;
mod metrics;
mod selection;
mod served;
#[cfg(test)]
mod tests;
mod trust;

use std::{fmt, sync::Arc};

use kube::Client;
use smol_str::{SmolStr, format_smolstr};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use self::{
    ask::{Trouble, whole},
    backoff::{Backoff, random},
    collection::Collection,
    follow::{Follower, Shared},
    kinds::{MESH_CONFIG, RESOURCES},
    known::{Known, Listing},
    layers::{Layer, Layers, together},
    selection::{Objects, Selection, select},
    served::Finder,
    trust::Trust,
};
pub use self::{
    client::{ClientSettings, client},
    metrics::SourceMetrics,
};
use super::{Change, Event, mesh_config::MeshConfigFile};
use crate::api::{Kind, Object, parse_mesh_config};

/// What is read from which API server.
#[derive(Clone)]
pub struct Settings {
    /// Asks the API server; see [`client`].
    pub client: Client,
    /// The cluster that its objects belong to.
    pub cluster: SmolStr,
    /// The namespace that this control plane runs in, with ConfigMap `istio`.
    pub namespace: SmolStr,
    /// Its revision; empty or `default`: that of objects and names without one.
    pub revision: SmolStr,
    /// `--watch-namespaces`: only these are read, and [`namespace`](Self::namespace); empty: all. Namespaces themselves
    /// and Nodes are always read.
    pub watch_namespaces: Vec<SmolStr>,
    /// `SHARED_MESH_CONFIG`: a further ConfigMap of our namespace with MeshConfig, below ours.
    pub shared_mesh_config: Option<SmolStr>,
    /// Counts what goes wrong.
    pub metrics: SourceMetrics,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("cluster", &self.cluster)
            .field("namespace", &self.namespace)
            .field("revision", &self.revision)
            .field("watch_namespaces", &self.watch_namespaces)
            .finish_non_exhaustive()
    }
}

/// Reads the API server until the receiver is dropped. First come all objects and `Synced`, when all kinds that are
/// served were listed; then what changes. It may be away at the start: then it is waited for.
///
/// MeshConfig comes from `mesh_file` if that is given (a mounted one wins, contract §7), else from the ConfigMap, and from
/// the shared one below it.
pub fn watch(settings: Settings, mesh_file: Option<MeshConfigFile>) -> mpsc::Receiver<Event> {
    let (events, receiver) = mpsc::channel(64);
    tokio::spawn(run(settings, mesh_file, events));
    receiver
}

/// MeshConfig as ConfigMap `istio` (or `istio-<revision>`) of our namespace has it now; `None`: there is none, or it is
/// no good, which [`watch`] tells of. Waits for the API server.
pub async fn mesh_config(settings: &Settings) -> Option<Arc<Object>> {
    let mut backoff = Backoff::default();
    loop {
        let trouble = match mesh_config_now(settings).await {
            Ok(object) => return object,
            Err(trouble) => trouble,
        };
        tracing::warn!(%trouble, "waiting for the API server's MeshConfig");
        sleep(backoff.next(random())).await;
    }
}

async fn mesh_config_now(settings: &Settings) -> Result<Option<Arc<Object>>, Trouble> {
    let own = listed(settings, &mesh_config_map(settings)).await?;
    let Some(shared) = shared_mesh_config_map(settings) else { return Ok(own.objects().next().cloned()) };
    let shared = listed(settings, &shared).await?;
    let document = together(shared.document().as_deref(), own.document().as_deref());
    Ok(document.and_then(|document| parse_mesh_config(&document, &settings.cluster).objects.pop()))
}

async fn run(settings: Settings, mesh_file: Option<MeshConfigFile>, events: mpsc::Sender<Event>) {
    settings.metrics.set_clusters();
    let (selecting, selection) = watch::channel(Arc::new(Selection::new(&settings.revision)));
    let (mesh_configs, mesh_config) = watch::channel(None);
    let (all_namespaces, namespaces) = watch::channel(None);
    tokio::spawn(select(selecting, mesh_config, namespaces, settings.namespace.clone()));
    let (listed, mut all_listed) = mpsc::unbounded_channel();
    let look_again = Arc::new(Notify::new());
    let trust = Arc::new(Trust::new(settings.client.clone()));
    let mut finder = Finder::new(settings.client.clone(), Arc::clone(&trust), settings.metrics.clone(), Arc::clone(&look_again));
    let shared = Shared {
        client: settings.client.clone(),
        cluster: settings.cluster.clone(),
        trust,
        selection,
        look_again,
        metrics: settings.metrics.clone(),
        events: events.clone(),
        listed,
    };
    let shared_map = shared_mesh_config_map(&settings).filter(|_| mesh_file.is_none());
    let layers = shared_map.is_some().then(|| Layers::new(settings.cluster.clone()));
    let own = collections(&settings, mesh_file.is_none()).into_iter().map(|collection| (collection, Layer::Own));
    let all: Vec<_> = shared_map.map(|map| (map, Layer::Shared)).into_iter().chain(own).collect();
    let count = all.len();
    for (collection, layer) in all {
        let served = finder.add(collection.resource);
        let shown = match collection.resource.kind {
            Kind::MeshConfig => Some(mesh_configs.clone()),
            Kind::Namespace => Some(all_namespaces.clone()),
            _ => None,
        };
        let layers = layers.clone().filter(|_| collection.resource.kind == Kind::MeshConfig);
        let follower = Follower::new(collection, shared.clone(), served, shown);
        tokio::spawn(match layers {
            Some(layers) => follower.in_layer(layers, layer).run(),
            None => follower.run(),
        });
    }
    drop(shared);
    tokio::spawn(finder.run());
    if let Some(file) = mesh_file {
        tokio::spawn(follow_file(file, mesh_configs, events.clone()));
    }
    for _ in 0..count {
        if all_listed.recv().await.is_none() {
            return;
        }
    }
    // Nobody listens any more: then nobody misses it.
    let _ = events.send(Event::Synced).await;
    events.closed().await;
}

// The file's settings are told as it tells them, and shown to the selection.
async fn follow_file(file: MeshConfigFile, shown: watch::Sender<Objects>, events: mpsc::Sender<Event>) {
    let (from_file, mut inbox) = mpsc::channel(1);
    tokio::spawn(file.follow(from_file));
    while let Some(event) = inbox.recv().await {
        if let Event::Changes(changes) = &event {
            let applied = changes.iter().filter_map(|change| match change {
                Change::Applied(object) => Some(Arc::clone(object)),
                Change::Deleted(_) => None,
            });
            shown.send_replace(Some(applied.collect()));
        }
        if events.send(event).await.is_err() {
            return;
        }
    }
}

fn collections(settings: &Settings, mesh_config: bool) -> Vec<Collection> {
    let mut namespaces = settings.watch_namespaces.clone();
    if !namespaces.is_empty() {
        namespaces.push(settings.namespace.clone());
        namespaces.sort();
        namespaces.dedup();
    }
    let mut all: Vec<Collection> = mesh_config.then(|| mesh_config_map(settings)).into_iter().collect();
    for resource in RESOURCES {
        if namespaces.is_empty() || !resource.namespaced {
            all.push(Collection::all(resource));
        } else {
            all.extend(namespaces.iter().map(|namespace| Collection { namespace: Some(namespace.clone()), ..Collection::all(resource) }));
        }
    }
    all
}

fn mesh_config_map(settings: &Settings) -> Collection {
    let name = match settings.revision.as_str() {
        "" | "default" => SmolStr::new_static("istio"),
        revision => format_smolstr!("istio-{revision}"),
    };
    Collection { resource: &MESH_CONFIG, namespace: Some(settings.namespace.clone()), object: Some(name) }
}

fn shared_mesh_config_map(settings: &Settings) -> Option<Collection> {
    let name = settings.shared_mesh_config.clone()?;
    Some(Collection { object: Some(name), ..mesh_config_map(settings) })
}

async fn listed(settings: &Settings, collection: &Collection) -> Result<Known, Trouble> {
    let request = collection.list("v1", 1, None).map_err(|error| Trouble::Away(error.to_string()))?;
    let body = whole(&settings.client, request).await?;
    let page = decode::page(&body).map_err(|error| Trouble::Away(error.to_string()))?;
    let mut known = Known::new(Kind::MeshConfig, settings.cluster.clone());
    let mut listing = Listing::default();
    page.items(collection.resource, "v1").for_each(|item| known.listed(&mut listing, item, |_| true));
    known.swap(listing);
    Ok(known)
}

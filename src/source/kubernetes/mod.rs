//! Reads objects from a Kubernetes API server: lists and then watches each kind, and keeps only the fields that are used.
//!
//! Losing the API server, a right, or a watch withdraws nothing (rule 8). A list counts only when it is complete and comes
//! from the cluster that was read before, and then only its differences are sent.

mod cache;
mod client;
mod cluster_identity;
mod collection;
mod decode;
mod discovery;
mod field_mask;
mod filter;
mod interned;
mod kinds;
mod mesh_config_maps;
mod metrics;
mod reflector;
mod request;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use kube::Client;
use smol_str::{SmolStr, format_smolstr};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use self::{
    cache::{ObjectCache, ObjectListing},
    cluster_identity::ClusterIdentity,
    collection::Collection,
    discovery::ApiDiscovery,
    filter::{ObjectFilter, Snapshot, keep_updated},
    kinds::{MESH_CONFIG, RESOURCES},
    mesh_config_maps::{MapRole, MeshConfigMaps, merge},
    reflector::{Reflector, ReflectorContext},
    request::{RequestError, backoff, fetch},
};
pub(crate) use self::{
    client::{ClientSettings, client, server_names},
    metrics::SourceMetrics,
};
use super::{Change, SourceEvent, mesh_config::MeshConfigFile};
use crate::{
    api::{Kind, Object, parse_mesh_config},
    backoff::random_unit,
};

/// What is read, and from which API server.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Sends the requests; see [`client()`].
    pub client: Client,
    /// The cluster that the objects belong to.
    pub cluster: SmolStr,
    /// The namespace that this control plane runs in, which has ConfigMap `istio`.
    pub namespace: SmolStr,
    /// The revision of this control plane; empty or `default` for the one whose objects and names have none.
    pub revision: SmolStr,
    /// `--watch-namespaces`: the namespaces that are read, besides [`namespace`](Self::namespace); all if empty. Namespaces
    /// themselves and Nodes are always read.
    pub watch_namespaces: Vec<SmolStr>,
    /// `SHARED_MESH_CONFIG`: a further ConfigMap of our namespace with MeshConfig, which ours overrides.
    pub shared_mesh_config: Option<SmolStr>,
    /// Counts faults.
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

/// Reads the API server until the receiver is dropped. First come all objects and [`SourceEvent::Synced`], when every kind
/// that is served was listed; then come changes. If the API server cannot be reached at the start, it is waited for.
///
/// MeshConfig comes from `mesh_file` if there is one (a mounted file takes precedence, contract §7), otherwise from the
/// ConfigMap and the shared one that it overrides.
pub(crate) fn watch(settings: Settings, mesh_file: Option<MeshConfigFile>) -> mpsc::Receiver<SourceEvent> {
    let (events, receiver) = mpsc::channel(64);
    tokio::spawn(run(settings, mesh_file, events));
    receiver
}

/// Returns MeshConfig as ConfigMap `istio` (or `istio-<revision>`) of our namespace has it now, and waits for the API server
/// if it cannot be reached: of one that is refused, what closes something. Returns `None` if there is none; [`watch`] reports why.
pub(crate) async fn mesh_config(settings: &Settings) -> Option<Arc<Object>> {
    let mut backoff = backoff();
    loop {
        let error = match fetch_mesh_config(settings).await {
            Ok(object) => return object,
            Err(error) => error,
        };
        tracing::warn!(%error, "waiting for the API server's MeshConfig");
        sleep(backoff.next(random_unit())).await;
    }
}

async fn fetch_mesh_config(settings: &Settings) -> Result<Option<Arc<Object>>, RequestError> {
    let own = list_once(settings, &mesh_config_map(settings)).await?;
    let Some(shared) = shared_mesh_config_map(settings) else { return Ok(own.objects().next().cloned()) };
    let shared = list_once(settings, &shared).await?;
    let document = merge(shared.document().as_deref(), own.document().as_deref());
    let parsed = document.map(|document| parse_mesh_config(&document, &settings.cluster));
    Ok(parsed.and_then(|mut parsed| parsed.objects.pop().or_else(|| Some(parsed.refused.pop()?.remnant?.object))))
}

async fn run(settings: Settings, mesh_file: Option<MeshConfigFile>, events: mpsc::Sender<SourceEvent>) {
    settings.metrics.set_clusters();
    let (filters, filter) = watch::channel(Arc::new(ObjectFilter::new(&settings.revision)));
    let (mesh_configs, mesh_config) = watch::channel(None);
    let (all_namespaces, namespaces) = watch::channel(None);
    tokio::spawn(keep_updated(filters, mesh_config, namespaces, settings.namespace.clone()));
    let (listed, mut all_listed) = mpsc::unbounded_channel();
    let rediscover = Arc::new(Notify::new());
    let identity = Arc::new(ClusterIdentity::new(settings.client.clone()));
    let mut discovery =
        ApiDiscovery::new(settings.client.clone(), Arc::clone(&identity), settings.metrics.clone(), Arc::clone(&rediscover));
    let context = ReflectorContext {
        client: settings.client.clone(),
        cluster: settings.cluster.clone(),
        identity,
        filter,
        rediscover,
        metrics: settings.metrics.clone(),
        events: events.clone(),
        listed,
    };
    let shared_map = shared_mesh_config_map(&settings).filter(|_| mesh_file.is_none());
    let maps = shared_map.is_some().then(|| MeshConfigMaps::new(settings.cluster.clone()));
    let own = collections(&settings, mesh_file.is_none()).into_iter().map(|collection| (collection, MapRole::Own));
    let all: Vec<_> = shared_map.map(|map| (map, MapRole::Shared)).into_iter().chain(own).collect();
    let count = all.len();
    for (collection, role) in all {
        let served = discovery.add(collection.resource);
        let snapshots = match collection.resource.kind {
            Kind::MeshConfig => Some(mesh_configs.clone()),
            Kind::Namespace => Some(all_namespaces.clone()),
            _ => None,
        };
        let maps = maps.clone().filter(|_| collection.resource.kind == Kind::MeshConfig);
        let reflector = Reflector::new(collection, context.clone(), served, snapshots);
        tokio::spawn(match maps {
            Some(maps) => reflector.merged_into(maps, role).run(),
            None => reflector.run(),
        });
    }
    drop(context);
    tokio::spawn(discovery.run());
    if let Some(file) = mesh_file {
        tokio::spawn(forward_file(file, mesh_configs, events.clone()));
    }
    for _ in 0..count {
        if all_listed.recv().await.is_none() {
            return;
        }
    }
    // Without a receiver nobody waits for it.
    let _ = events.send(SourceEvent::Synced).await;
    events.closed().await;
}

/// Forwards the events of the file, and shows its settings to the object filter.
async fn forward_file(file: MeshConfigFile, snapshots: watch::Sender<Snapshot>, events: mpsc::Sender<SourceEvent>) {
    let (from_file, mut inbox) = mpsc::channel(1);
    tokio::spawn(file.follow(from_file));
    while let Some(event) = inbox.recv().await {
        if let SourceEvent::Changes(changes) = &event {
            let applied = changes.iter().filter_map(|change| match change {
                Change::Applied(object) => Some(Arc::clone(object)),
                Change::Deleted(_) => None,
            });
            snapshots.send_replace(Some(applied.collect()));
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
    for resource in RESOURCES.iter() {
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

async fn list_once(settings: &Settings, collection: &Collection) -> Result<ObjectCache, RequestError> {
    let request = collection.list("v1", 1, None).map_err(|error| RequestError::Unavailable(error.to_string()))?;
    let body = fetch(&settings.client, request).await?;
    let page = decode::page(&body).map_err(|error| RequestError::Unavailable(error.to_string()))?;
    let mut cache = ObjectCache::new(Kind::MeshConfig, settings.cluster.clone());
    let mut listing = ObjectListing::default();
    page.items(collection.resource, "v1").for_each(|item| cache.read_into(&mut listing, item, |_| true));
    cache.replace(listing);
    Ok(cache)
}

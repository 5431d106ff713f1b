//! Views: what one class of proxies is to have, by type, in a few sorted layers of shared resources.

use std::{
    iter,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use futures::future::BoxFuture;
use imbl::OrdMap;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::{
    node::Proven,
    per_type::PerType,
    resource::{ContentHash, Resource},
    resource_type::ResourceType,
};

/// Resources by name, shared by every view that contains them.
pub type Layer = Arc<OrdMap<SmolStr, Arc<Resource>>>;

/// What a proxy is to have. Cheap to clone. A layer that did not change is the same `Arc` as in the view before.
///
/// A name occurs in at most one layer of a type.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The generation of the world that it shows. It counts from the start of the process, so it means nothing elsewhere.
    pub generation: u64,
    layers: Arc<PerType<Vec<Layer>>>,
}

/// One difference between two views.
#[derive(Clone, Debug)]
pub enum Difference<'a> {
    /// Only the newer view has it, or it has it with other content.
    Changed(&'a Arc<Resource>),
    /// Only the older view has it.
    Removed(&'a SmolStr),
}

/// Where sessions get their views from.
pub trait Views: Send + Sync {
    /// Learns about a proxy what others have to be asked, before it is attached.
    fn introduce<'a>(&'a self, _: &'a Proven) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Attaches a proxy, with who it is proven to be.
    fn attach(&self, proxy: &Proven) -> Attachment;
}

/// Always holds the newest view of an attached proxy's class, and changes when the proxy's class does. Dropping it detaches
/// the proxy.
pub struct Attachment {
    // Dropped first: whoever is told that the proxy is gone finds its view unused.
    views: watch::Receiver<View>,
    _end: Option<End>,
}

/// Does something when it is dropped.
struct End(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Attachment {
    /// Attaches a proxy to these views; `end` is called when it is detached.
    pub fn new(views: watch::Receiver<View>, end: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { views, _end: Some(End(Some(Box::new(end)))) }
    }
}

impl From<watch::Receiver<View>> for Attachment {
    fn from(views: watch::Receiver<View>) -> Self {
        Self { views, _end: None }
    }
}

impl Deref for Attachment {
    type Target = watch::Receiver<View>;

    fn deref(&self) -> &Self::Target {
        &self.views
    }
}

impl DerefMut for Attachment {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.views
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl View {
    /// Puts a view together from its layers.
    pub fn new(generation: u64, layers: PerType<Vec<Layer>>) -> Self {
        Self { generation, layers: Arc::new(layers) }
    }

    /// Returns the layers of a type.
    pub fn layers(&self, kind: ResourceType) -> &[Layer] {
        &self.layers[kind]
    }

    /// Returns the resource of that name.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.layers(kind).iter().find_map(|layer| layer.get(name))
    }

    /// Returns all resources of a type, layer by layer, sorted within each.
    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        self.layers(kind).iter().flat_map(|layer| layer.values())
    }

    /// Returns how many resources of a type there are.
    pub fn len(&self, kind: ResourceType) -> usize {
        self.layers(kind).iter().map(|layer| layer.len()).sum()
    }

    /// Returns whether the two are put together from the very same layers.
    pub fn has_layers_of(&self, other: &Self) -> bool {
        let same = |kind| {
            let (own, others) = (self.layers(kind), other.layers(kind));
            own.len() == others.len() && own.iter().zip(others).all(|(own, other)| Arc::ptr_eq(own, other))
        };
        ResourceType::ALL.into_iter().all(same)
    }

    /// Returns what differs from `older`, for one type. Layers that both share are not walked.
    pub fn differences<'a>(&'a self, older: &'a Self, kind: ResourceType) -> Vec<Difference<'a>> {
        let (new, old) = (self.layers(kind), older.layers(kind));
        let empty = || None;
        let pairs = new.iter().map(Some).chain(iter::repeat_with(empty)).zip(old.iter().map(Some).chain(iter::repeat_with(empty)));
        let mut found = Vec::new();
        for (new, old) in pairs.take(self.layers(kind).len().max(older.layers(kind).len())) {
            match (new, old) {
                (Some(new), Some(old)) if Arc::ptr_eq(new, old) => {}
                (Some(new), Some(old)) => found.extend(old.diff(new).filter_map(|item| match item {
                    imbl::ordmap::DiffItem::Add(_, resource) => Some(Difference::Changed(resource)),
                    imbl::ordmap::DiffItem::Update { old, new } if old.1.version != new.1.version => Some(Difference::Changed(new.1)),
                    imbl::ordmap::DiffItem::Update { .. } => None,
                    imbl::ordmap::DiffItem::Remove(name, _) => Some(Difference::Removed(name)),
                })),
                (Some(new), None) => found.extend(new.values().map(Difference::Changed)),
                (None, Some(old)) => found.extend(old.keys().map(Difference::Removed)),
                (None, None) => {}
            }
        }
        // A name may have moved from one layer to another.
        found.retain(|difference| match difference {
            Difference::Changed(resource) => older.version(kind, &resource.name) != Some(resource.version),
            Difference::Removed(name) => self.get(kind, name).is_none(),
        });
        found
    }

    /// Returns the version of the resource of that name.
    pub fn version(&self, kind: ResourceType, name: &str) -> Option<ContentHash> {
        self.get(kind, name).map(|resource| resource.version)
    }
}

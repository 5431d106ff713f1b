//! The objects as they stand: the only input of everything derived.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;

use crate::api::{Kind, Object, ObjectKey, Spec};

/// An object's name without its cluster. Configuration of one name from two clusters is one thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    /// Kind.
    pub(super) kind: Kind,
    /// Namespace; empty for kinds outside namespaces.
    pub(super) namespace: SmolStr,
    /// Name.
    pub(super) name: SmolStr,
}

impl Id {
    pub(super) fn new(kind: Kind, namespace: &SmolStr, name: &SmolStr) -> Self {
        Self { kind, namespace: namespace.clone(), name: name.clone() }
    }
}

impl From<&ObjectKey> for Id {
    fn from(key: &ObjectKey) -> Self {
        Self::new(key.kind, &key.namespace, &key.name)
    }
}

/// All objects. Where clusters share a name, the first cluster's object counts, whatever the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// By cluster, sorted.
    objects: FxHashMap<Id, Vec<(SmolStr, Arc<Object>)>>,
    /// Names of those that labels can select, by kind and namespace.
    selectable: FxHashMap<(Kind, SmolStr), FxHashSet<SmolStr>>,
}

impl Store {
    /// Puts or removes an object; says whether that changed anything.
    pub(super) fn put(&mut self, key: &ObjectKey, object: Option<Arc<Object>>) -> bool {
        let id = Id::from(key);
        match object {
            Some(object) => self.insert(id, &key.cluster, object),
            None => self.remove(&id, &key.cluster),
        }
    }

    fn insert(&mut self, id: Id, cluster: &SmolStr, object: Arc<Object>) -> bool {
        if is_selectable(id.kind) {
            self.selectable.entry((id.kind, id.namespace.clone())).or_default().insert(id.name.clone());
        }
        let clusters = self.objects.entry(id).or_default();
        match clusters.binary_search_by(|(other, _)| other.cmp(cluster)) {
            Ok(at) if clusters[at].1 == object => return false,
            Ok(at) => clusters[at].1 = object,
            Err(at) => clusters.insert(at, (cluster.clone(), object)),
        }
        true
    }

    fn remove(&mut self, id: &Id, cluster: &SmolStr) -> bool {
        let Some(clusters) = self.objects.get_mut(id) else { return false };
        let before = clusters.len();
        clusters.retain(|(other, _)| other != cluster);
        let removed = clusters.len() < before;
        if clusters.is_empty() {
            self.objects.remove(id);
            self.forget_selectable(id);
        }
        removed
    }

    fn forget_selectable(&mut self, id: &Id) {
        let at = (id.kind, id.namespace.clone());
        if let Some(names) = self.selectable.get_mut(&at) {
            names.remove(&id.name);
            if names.is_empty() {
                self.selectable.remove(&at);
            }
        }
    }

    /// The object of that name.
    pub(super) fn get(&self, id: &Id) -> Option<&Arc<Object>> {
        self.objects.get(id)?.first().map(|(_, object)| object)
    }

    /// The object of that name, if it is what its kind says.
    pub(super) fn spec<'a, T>(&'a self, id: &Id, as_kind: impl Fn(&'a Spec) -> Option<&'a T>) -> Option<(&'a Object, &'a T)> {
        let object = self.get(id)?;
        Some((object, as_kind(&object.spec)?))
    }

    /// All objects of a kind that labels can select (pods, WorkloadEntries) in a namespace; in no order.
    pub(super) fn selectable_in(&self, kind: Kind, namespace: &SmolStr) -> impl Iterator<Item = &Arc<Object>> {
        let names = self.selectable.get(&(kind, namespace.clone())).into_iter().flatten();
        names.filter_map(move |name| self.get(&Id::new(kind, namespace, name)))
    }

    /// The names of all objects; in no order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Id> {
        self.objects.keys()
    }
}

fn is_selectable(kind: Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::WorkloadEntry)
}

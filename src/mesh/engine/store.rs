//! The objects as they stand: the only input of everything derived.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::SmolStr;

use crate::api::{Kind, Object, ObjectKey, Spec};

/// An object's name without its cluster. Configuration of one name from two clusters is one thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    objects: BTreeMap<Id, BTreeMap<SmolStr, Arc<Object>>>,
}

impl Store {
    /// Whether the object is there.
    pub(super) fn has(&self, key: &ObjectKey) -> bool {
        self.objects.get(&Id::from(key)).is_some_and(|clusters| clusters.contains_key(&key.cluster))
    }

    /// Puts or removes an object; says whether that changed anything.
    pub(super) fn put(&mut self, key: &ObjectKey, object: Option<Arc<Object>>) -> bool {
        let id = Id::from(key);
        match object {
            Some(object) => {
                let clusters = self.objects.entry(id).or_default();
                if clusters.get(&key.cluster).is_some_and(|old| *old == object) {
                    return false;
                }
                clusters.insert(key.cluster.clone(), object);
                true
            }
            None => {
                let Some(clusters) = self.objects.get_mut(&id) else { return false };
                let removed = clusters.remove(&key.cluster).is_some();
                if clusters.is_empty() {
                    self.objects.remove(&id);
                }
                removed
            }
        }
    }

    /// The object of that name.
    pub(super) fn get(&self, id: &Id) -> Option<&Arc<Object>> {
        self.objects.get(id)?.values().next()
    }

    /// The object of that name, if it is what its kind says.
    pub(super) fn spec<'a, T>(&'a self, id: &Id, as_kind: impl Fn(&'a Spec) -> Option<&'a T>) -> Option<(&'a Object, &'a T)> {
        let object = self.get(id)?;
        Some((object, as_kind(&object.spec)?))
    }

    /// All objects of a kind in a namespace.
    pub(super) fn in_namespace<'a>(&'a self, kind: Kind, namespace: &'a SmolStr) -> impl Iterator<Item = (&'a Id, &'a Arc<Object>)> {
        let from = Id { kind, namespace: namespace.clone(), name: SmolStr::default() };
        self.objects
            .range(from..)
            .take_while(move |(id, _)| id.kind == kind && id.namespace == *namespace)
            .filter_map(|(id, clusters)| Some((id, clusters.values().next()?)))
    }

    /// The names of all objects.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Id> {
        self.objects.keys()
    }
}

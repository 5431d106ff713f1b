//! The objects as they stand: the only input of everything derived.

use std::{
    collections::{BTreeMap, hash_map::Entry},
    sync::Arc,
};

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
    objects: FxHashMap<Id, Named>,
    /// Names of WorkloadEntries by namespace.
    entries: FxHashMap<SmolStr, FxHashSet<SmolStr>>,
}

/// The objects of one name by cluster; mostly there is one, which then costs no table.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "one word for what is rare keeps the entry of every object small")]
enum Named {
    One(Arc<Object>),
    Several(Box<BTreeMap<SmolStr, Arc<Object>>>),
}

impl Store {
    /// Puts or removes an object; says whether that changed anything.
    pub(super) fn put(&mut self, key: &ObjectKey, object: Option<Arc<Object>>) -> bool {
        let id = Id::from(key);
        let Some(object) = object else { return self.remove(id, &key.cluster) };
        if id.kind == Kind::WorkloadEntry {
            self.entries.entry(id.namespace.clone()).or_default().insert(id.name.clone());
        }
        match self.objects.entry(id) {
            Entry::Vacant(vacant) => _ = vacant.insert(Named::One(object)),
            Entry::Occupied(mut named) => {
                if named.get().of(&key.cluster) == Some(&object) {
                    return false;
                }
                named.get_mut().put(object);
            }
        }
        true
    }

    /// Whether there is an object of that name.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.objects.contains_key(id)
    }

    fn remove(&mut self, id: Id, cluster: &SmolStr) -> bool {
        let Entry::Occupied(mut named) = self.objects.entry(id) else { return false };
        if named.get().of(cluster).is_none() {
            return false;
        }
        let left = match named.get_mut() {
            Named::One(_) => 0,
            Named::Several(objects) => {
                objects.remove(cluster);
                objects.len()
            }
        };
        if left == 0 {
            let (id, _) = named.remove_entry();
            if id.kind == Kind::WorkloadEntry {
                self.forget_entry(id);
            }
        }
        true
    }

    fn forget_entry(&mut self, id: Id) {
        if let Entry::Occupied(mut names) = self.entries.entry(id.namespace) {
            names.get_mut().remove(&id.name);
            if names.get().is_empty() {
                names.remove();
            }
        }
    }

    /// The object of that name.
    pub(super) fn get(&self, id: &Id) -> Option<&Arc<Object>> {
        self.objects.get(id)?.first()
    }

    /// The object of that name, if it is what its kind says.
    pub(super) fn spec<'a, T>(&'a self, id: &Id, as_kind: impl Fn(&'a Spec) -> Option<&'a T>) -> Option<(&'a Object, &'a T)> {
        let object = self.get(id)?;
        Some((object, as_kind(&object.spec)?))
    }

    /// The WorkloadEntries of a namespace; in no order.
    pub(super) fn entries_in(&self, namespace: &SmolStr) -> impl Iterator<Item = &Arc<Object>> {
        let names = self.entries.get(namespace).into_iter().flatten();
        names.filter_map(move |name| self.get(&Id::new(Kind::WorkloadEntry, namespace, name)))
    }

    /// The names of all objects; in no order.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Id> {
        self.objects.keys()
    }
}

impl Named {
    fn first(&self) -> Option<&Arc<Object>> {
        match self {
            Self::One(object) => Some(object),
            Self::Several(objects) => objects.values().next(),
        }
    }

    fn of(&self, cluster: &SmolStr) -> Option<&Arc<Object>> {
        match self {
            Self::One(object) => Some(object).filter(|object| object.key.cluster == *cluster),
            Self::Several(objects) => objects.get(cluster),
        }
    }

    fn put(&mut self, object: Arc<Object>) {
        match self {
            Self::One(one) if one.key.cluster == object.key.cluster => *one = object,
            Self::One(one) => {
                let both = [Arc::clone(one), object].map(|object| (object.key.cluster.clone(), object));
                *self = Self::Several(Box::new(BTreeMap::from(both)));
            }
            Self::Several(objects) => _ = objects.insert(object.key.cluster.clone(), object),
        }
    }
}

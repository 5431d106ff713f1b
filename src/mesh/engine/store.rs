//! The objects as they stand: the only input of everything derived.

use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

use imbl::OrdSet;
use smol_str::SmolStr;

use crate::api::{ConfigId, Content, Id, Kind, LocalId, Object, ObjectKey};

/// All objects of all clusters. A copy shares them with its source.
#[derive(Clone, Default)]
pub(super) struct Store {
    objects: OrdSet<Stored>,
}

/// An object, which stands under its key. Keys sort by kind, namespace, name and cluster.
#[derive(Clone, Debug)]
struct Stored(Arc<Object>);

impl Store {
    /// Puts or removes an object; returns whether that changed anything.
    pub(super) fn put(&mut self, key: &ObjectKey, object: Option<Arc<Object>>) -> bool {
        let Some(object) = object else { return self.objects.remove(key).is_some() };
        if self.at(key) == Some(&object) {
            return false;
        }
        self.objects.insert(Stored(object));
        true
    }

    /// Returns whether some cluster has that object.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.get(id).is_some()
    }

    /// Returns the object; for configuration, with the content that counts.
    pub(super) fn get(&self, id: &Id) -> Option<&Arc<Object>> {
        match id {
            Id::Local(id) => self.local(id),
            Id::Config(id) => self.config(id),
        }
    }

    /// Returns the content of the first object of a kind.
    pub(super) fn first_of<T: Content>(&self) -> Option<&Arc<T>> {
        self.from(T::KIND, &SmolStr::default(), &SmolStr::default()).next().and_then(|object| object.content())
    }

    /// Iterates over the objects of a kind that is of no namespace, sorted by name.
    pub(super) fn all_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.from(kind, &SmolStr::default(), &SmolStr::default()).take_while(move |object| object.key.kind == kind)
    }

    /// Returns a configuration object, with the content that counts: that in the first cluster.
    pub(super) fn config(&self, id: &ConfigId) -> Option<&Arc<Object>> {
        self.named(id.kind, &id.namespace, &id.name).next()
    }

    /// Returns an object of one cluster.
    pub(super) fn local(&self, id: &LocalId) -> Option<&Arc<Object>> {
        self.at(id.key())
    }

    /// Returns a configuration object with its content.
    pub(super) fn config_of<T: Content>(&self, namespace: &SmolStr, name: &SmolStr) -> Option<(&Object, &Arc<T>)> {
        with_content(self.config(&ConfigId::new(T::KIND, namespace, name))?)
    }

    /// Returns an object of one cluster with its content.
    pub(super) fn local_of<T: Content>(&self, id: &LocalId) -> Option<(&Object, &Arc<T>)> {
        with_content(self.local(id)?)
    }

    /// Iterates over the objects of that kind and name, sorted by cluster.
    pub(super) fn named<'a>(&'a self, kind: Kind, namespace: &SmolStr, name: &SmolStr) -> impl Iterator<Item = &'a Arc<Object>> {
        self.from(kind, namespace, name).take_while(move |object| {
            let key = &object.key;
            (key.kind, &key.namespace, &key.name) == (kind, namespace, name)
        })
    }

    /// Iterates over the configuration objects of a kind in a namespace, sorted by name.
    pub(super) fn configs_in<'a>(&'a self, kind: Kind, namespace: &SmolStr) -> impl Iterator<Item = &'a Arc<Object>> {
        let all = self.from(kind, namespace, &SmolStr::default());
        let mut last: Option<&'a SmolStr> = None;
        all.take_while(move |object| (object.key.kind, &object.key.namespace) == (kind, namespace))
            .filter(move |object| last.replace(&object.key.name) != Some(&object.key.name))
    }

    /// Iterates over what identifies the objects of a kind in a namespace; one that several clusters hold may come several
    /// times.
    pub(super) fn ids_in<'a>(&'a self, kind: Kind, namespace: &'a SmolStr) -> impl Iterator<Item = Id> + use<'a> {
        let all = self.from(kind, namespace, &SmolStr::default());
        all.take_while(move |object| (object.key.kind, &object.key.namespace) == (kind, namespace)).map(|object| Id::from(&object.key))
    }

    /// Iterates over what identifies all objects; one that several clusters hold may come several times.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        self.objects.iter().map(|Stored(object)| Id::from(&object.key))
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.objects.ptr_eq(&other.objects)
    }

    fn at(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(key).map(|Stored(object)| object)
    }

    fn from(&self, kind: Kind, namespace: &SmolStr, name: &SmolStr) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let first = ObjectKey { kind, namespace: namespace.clone(), name: name.clone(), cluster: SmolStr::default() };
        self.objects.range(first..).map(|Stored(object)| object)
    }
}

fn with_content<T: Content>(object: &Arc<Object>) -> Option<(&Object, &Arc<T>)> {
    Some((object, object.content()?))
}

impl Borrow<ObjectKey> for Stored {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Stored {}

impl PartialOrd for Stored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

//! Secrets and ConfigMaps as credentials: those that some object names, and no others.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, OrdSet};
use smol_str::SmolStr;

use super::{Dirty, Engine, store::Store};
use crate::{
    api::{ConfigId, Id, Kind},
    mesh::{
        credential::{self, Holder, SecretName},
        world::World,
    },
    visits::{self, Visited},
};

/// The namespaces that have a Secret of a name.
#[derive(Clone, Default)]
pub(super) struct SecretsByName(OrdMap<SmolStr, OrdSet<SmolStr>>);

impl SecretsByName {
    fn update(&mut self, store: &Store, namespace: &SmolStr, name: &SmolStr) {
        let there = store.named(Kind::Secret, namespace, name).next().is_some();
        let namespaces = self.0.entry(name.clone()).or_default();
        match there {
            true => _ = namespaces.insert(namespace.clone()),
            false => _ = namespaces.remove(namespace),
        }
        if namespaces.is_empty() {
            self.0.remove(name);
        }
    }

    fn namespaces(&self, name: &SmolStr) -> impl Iterator<Item = &SmolStr> {
        self.0.get(name).into_iter().flatten()
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Engine {
    /// Follows which secrets objects name, and reads the objects that are meant.
    pub(super) fn derive_credentials(&mut self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        let mut due: BTreeSet<Holder> = BTreeSet::new();
        let mut renamed = BTreeSet::new();
        for id in changed {
            match id {
                Id::Config(id) if matches!(id.kind, Kind::Gateway | Kind::DestinationRule) => {
                    renamed.extend(relist_uses(&self.store, world, id));
                }
                Id::Local(id) if matches!(id.key().kind, Kind::Secret | Kind::ConfigMap) => {
                    let (kind, namespace, name) = (id.key().kind, &id.key().namespace, &id.key().name);
                    if kind == Kind::Secret {
                        self.secrets.update(&self.store, namespace, name);
                    }
                    due.insert(Holder { kind, name: name.clone(), namespace: namespace.clone() });
                }
                _ => {}
            }
        }
        due.extend(renamed.iter().flat_map(|name| self.holders(name)));
        dirty.touched.secret_names = renamed;
        for holder in due {
            self.derive_credential(world, holder, dirty);
        }
    }

    /// Returns what a name may stand for.
    fn holders<'a>(&'a self, name: &'a SecretName) -> impl Iterator<Item = Holder> {
        name.candidates().flat_map(move |candidate| {
            let namespaces: Vec<&SmolStr> = match &name.namespace {
                Some(namespace) => vec![namespace],
                None => self.secrets.namespaces(&candidate).collect(),
            };
            namespaces.into_iter().map(move |namespace| Holder { kind: name.kind(), name: candidate.clone(), namespace: namespace.clone() })
        })
    }

    fn derive_credential(&self, world: &mut World, holder: Holder, dirty: &mut Dirty) {
        let named = world.names_of_secret(&holder).next().is_some();
        let object = self.store.named(holder.kind, &holder.namespace, &holder.name).next().filter(|_| named);
        let new = object.and_then(|object| {
            visits::count(Visited::Object, 1);
            dirty.recomputed += 1;
            credential::credential(object)
        });
        if world.credentials.get(&holder).map(|old| &**old) == new.as_ref() {
            return;
        }
        dirty.touched.secrets.insert(holder.clone());
        match new {
            Some(new) => _ = world.credentials.insert(holder, Arc::new(new)),
            None => _ = world.credentials.remove(&holder),
        }
    }
}

/// Lists again which secrets an object names; returns the names that have a first user now, or lost their last.
fn relist_uses(store: &Store, world: &mut World, id: &ConfigId) -> BTreeSet<SecretName> {
    let new = store.config(id).map(|object| credential::of(object)).unwrap_or_default();
    let old = world.secret_uses.get(id).cloned().unwrap_or_default();
    let mut renamed = BTreeSet::new();
    if *old == *new {
        return renamed;
    }
    for used in old.iter() {
        if let Some(users) = world.secret_users.get_mut(&used.name) {
            users.remove(id);
            if users.is_empty() {
                world.secret_users.remove(&used.name);
                renamed.insert(used.name.clone());
            }
        }
    }
    for used in &new {
        let users = world.secret_users.entry(used.name.clone()).or_default();
        let is_first = users.is_empty();
        users.insert(id.clone());
        // One that is used again right away was not lost.
        if is_first && !renamed.remove(&used.name) {
            renamed.insert(used.name.clone());
        }
    }
    match new.is_empty() {
        true => _ = world.secret_uses.remove(id),
        false => _ = world.secret_uses.insert(id.clone(), new.into()),
    }
    renamed
}

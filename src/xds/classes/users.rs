//! Which groups a proxy belongs to, and how many proxies each group has: a group goes with its last.

use std::{hash::Hash, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    added::AddedKey,
    key::{ListenersKey, LocatedKey, SharedKey},
    per_proxy::PerProxyInputs,
};
use crate::mesh::scope::ScopeKey;

/// Which groups a proxy's view is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) shared: SharedKey,
    /// Only sidecars have outbound listeners by scope; a gateway's are its own.
    pub(super) listeners: Option<ListenersKey>,
    /// None while it counts for no service where clients are.
    pub(super) located: Option<LocatedKey>,
    pub(super) own: Arc<PerProxyInputs>,
    /// None while no EnvoyFilter adds anything.
    pub(super) added: Option<Arc<AddedKey>>,
}

/// The number of proxies by group.
#[derive(Debug, Default)]
pub(super) struct Users {
    scopes: Counts<ScopeKey>,
    shared: Counts<SharedKey>,
    listeners: Counts<ListenersKey>,
    located: Counts<LocatedKey>,
    own: Counts<Arc<PerProxyInputs>>,
    added: Counts<Arc<AddedKey>>,
}

/// Those groups of a proxy that have no proxy.
#[derive(Debug)]
pub(super) struct Unused<'a> {
    pub(super) scope: Option<&'a ScopeKey>,
    pub(super) shared: Option<&'a SharedKey>,
    pub(super) listeners: Option<&'a ListenersKey>,
    pub(super) located: Option<&'a LocatedKey>,
    pub(super) own: Option<&'a Arc<PerProxyInputs>>,
    pub(super) added: Option<&'a Arc<AddedKey>>,
}

#[derive(Debug)]
struct Counts<K>(FxHashMap<K, usize>);

impl Users {
    /// Counts a proxy.
    pub(super) fn enter(&mut self, keys: &Keys) {
        self.scopes.add(&keys.shared.scope);
        self.shared.add(&keys.shared);
        keys.listeners.iter().for_each(|key| self.listeners.add(key));
        keys.located.iter().for_each(|key| self.located.add(key));
        self.own.add(&keys.own);
        keys.added.iter().for_each(|key| self.added.add(key));
    }

    /// Counts a proxy no longer; returns whether it was the last of some group.
    pub(super) fn leave(&mut self, keys: &Keys) -> bool {
        let listeners = keys.listeners.as_ref().is_some_and(|key| self.listeners.take(key));
        let located = keys.located.as_ref().is_some_and(|key| self.located.take(key));
        let added = keys.added.as_ref().is_some_and(|key| self.added.take(key));
        // Each is to be counted.
        let others = [self.scopes.take(&keys.shared.scope), self.shared.take(&keys.shared), self.own.take(&keys.own)];
        listeners || located || added || others.contains(&true)
    }

    /// Returns which of a proxy's groups have no proxy.
    pub(super) fn unused<'a>(&self, keys: &'a Keys) -> Unused<'a> {
        Unused {
            scope: Some(&keys.shared.scope).filter(|key| !self.scopes.has(key)),
            shared: Some(&keys.shared).filter(|key| !self.shared.has(key)),
            listeners: keys.listeners.as_ref().filter(|key| !self.listeners.has(key)),
            located: keys.located.as_ref().filter(|key| !self.located.has(key)),
            own: Some(&keys.own).filter(|key| !self.own.has(key)),
            added: keys.added.as_ref().filter(|key| !self.added.has(key)),
        }
    }
}

impl<K: Clone + Eq + Hash> Counts<K> {
    fn add(&mut self, key: &K) {
        match self.0.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(key.clone(), 1)),
        }
    }

    /// Returns whether it was the last.
    fn take(&mut self, key: &K) -> bool {
        let Some(count) = self.0.get_mut(key) else { return false };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.0.remove(key);
        }
        is_last
    }

    fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

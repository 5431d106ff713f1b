//! All groups, and which of them a proxy belongs to.

use std::{collections::hash_map::Entry, mem, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    key::{Distinctions, EndpointsKey, ListenersKey, SharedKey, class_of, own_headless_addresses},
    outbound::{Endpoints, Listeners, Shared, Step},
    own::{Own, OwnInputs},
    translator::{Translations, Translator},
};
use crate::{
    api::Diagnostic,
    mesh::{
        model::{Proxy, ProxyKind},
        scope::{Scope, ScopeKey, scope_key, scope_of},
        world::{Touched, World},
    },
    xds::view::Layer,
};

/// Which groups a proxy's view is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    shared: SharedKey,
    endpoints: EndpointsKey,
    /// Only sidecars have outbound listeners by scope; a gateway's are its own.
    listeners: Option<ListenersKey>,
    own: Arc<OwnInputs>,
}

impl Keys {
    /// What of the objects the proxy cannot have.
    pub(super) fn findings(&self) -> impl Iterator<Item = Diagnostic> {
        self.own.findings()
    }
}

/// Scopes by what decides about them.
pub(super) type Scopes = FxHashMap<ScopeKey, Scope>;

#[derive(Default)]
pub(super) struct Groups {
    translator: Translator,
    scopes: Scopes,
    shared: FxHashMap<SharedKey, Shared>,
    endpoints: FxHashMap<EndpointsKey, Endpoints>,
    listeners: FxHashMap<ListenersKey, Listeners>,
    own: FxHashMap<Arc<OwnInputs>, Own>,
    /// Stands where a proxy has no layer; one for all, for equal layers are known by their pointers.
    empty: Layer,
}

impl Groups {
    /// The groups of a proxy, made now where they do not exist.
    pub(super) fn ensure(&mut self, world: &World, proxy: &Proxy, distinctions: &Distinctions) -> Keys {
        let key = scope_key(world, proxy.kind, &proxy.namespace, &proxy.labels);
        let scope = self.scopes.entry(key.clone()).or_insert_with(|| scope_of(world, &key));
        let shared = SharedKey { scope: key.clone(), class: class_of(proxy, distinctions, false) };
        if let Entry::Vacant(entry) = self.shared.entry(shared.clone()) {
            entry.insert(Shared::new(world, scope, &shared.class, &mut self.translator));
        }
        let endpoints = EndpointsKey { scope: key.clone(), class: shared.class.clone() };
        if let Entry::Vacant(entry) = self.endpoints.entry(endpoints.clone()) {
            entry.insert(Endpoints::new(world, scope, &endpoints.class, &mut self.translator));
        }
        let listeners = (proxy.kind == ProxyKind::Sidecar).then(|| ListenersKey {
            class: class_of(proxy, distinctions, true),
            http_proxy_port: proxy.http_proxy_port,
            own: own_headless_addresses(world, scope, &proxy.ips),
            scope: key,
        });
        if let Some(listeners) = &listeners
            && let Entry::Vacant(entry) = self.listeners.entry(listeners.clone())
        {
            entry.insert(Listeners::new(world, scope, listeners, &mut self.translator));
        }
        let own = Arc::new(OwnInputs::of(world, scope, proxy, distinctions));
        if let Entry::Vacant(entry) = self.own.entry(Arc::clone(&own)) {
            entry.insert(Own::new(&own, &mut self.translator));
        }
        Keys { shared, endpoints, listeners, own }
    }

    /// Brings the scopes up to a new world, before proxies are sorted by them; gives those before.
    pub(super) fn update_scopes(&mut self, world: &World, touched: &Touched) -> Scopes {
        let next = |(key, scope): (&ScopeKey, &mut Scope)| {
            let next = scope.update(world, key, touched);
            (key.clone(), mem::replace(scope, next))
        };
        self.scopes.iter_mut().map(next).collect()
    }

    /// Brings all groups up to a new world; `before` are the scopes that they were made for.
    pub(super) fn update(&mut self, world: &World, before: &Scopes, touched: &Touched) {
        let Self { scopes, shared, endpoints, listeners, translator, .. } = self;
        let step = |key: &ScopeKey| Some(Step { world, old: before.get(key)?, new: scopes.get(key)?, touched });
        for (key, group) in shared {
            step(&key.scope).into_iter().for_each(|step| group.update(step, &key.class, translator));
        }
        for (key, group) in endpoints {
            step(&key.scope).into_iter().for_each(|step| group.update(step, &key.class, translator));
        }
        for (key, group) in listeners {
            step(&key.scope).into_iter().for_each(|step| group.update(step, key, translator));
        }
    }

    /// The layers of a proxy's view, by type.
    pub(super) fn layers(&self, keys: &Keys) -> [Vec<Layer>; 4] {
        let empty = || Arc::clone(&self.empty);
        let shared = self.shared.get(&keys.shared);
        let endpoints = self.endpoints.get(&keys.endpoints);
        let listeners = keys.listeners.as_ref().and_then(|key| self.listeners.get(key));
        let own = self.own.get(&keys.own);
        [
            vec![shared.map_or_else(empty, Shared::clusters), own.map_or_else(empty, Own::clusters)],
            vec![endpoints.map_or_else(empty, Endpoints::assignments), own.map_or_else(empty, Own::assignments)],
            vec![listeners.map_or_else(empty, Listeners::listeners), own.map_or_else(empty, Own::listeners)],
            vec![shared.map_or_else(empty, Shared::routes), own.map_or_else(empty, Own::routes)],
        ]
    }

    /// Lets go of groups that none of these keys needs.
    pub(super) fn retain<'a>(&mut self, used: impl Iterator<Item = &'a Keys>) {
        let used: Vec<&Keys> = used.collect();
        let shared: FxHashSet<&SharedKey> = used.iter().map(|keys| &keys.shared).collect();
        let endpoints: FxHashSet<&EndpointsKey> = used.iter().map(|keys| &keys.endpoints).collect();
        let listeners: FxHashSet<&ListenersKey> = used.iter().filter_map(|keys| keys.listeners.as_ref()).collect();
        let own: FxHashSet<&Arc<OwnInputs>> = used.iter().map(|keys| &keys.own).collect();
        let scopes: FxHashSet<&ScopeKey> = used.iter().map(|keys| &keys.shared.scope).collect();
        self.shared.retain(|key, _| shared.contains(key));
        self.endpoints.retain(|key, _| endpoints.contains(key));
        self.listeners.retain(|key, _| listeners.contains(key));
        self.own.retain(|key, _| own.contains(key));
        self.scopes.retain(|key, _| scopes.contains(key));
    }

    /// Counts the translations.
    pub(super) fn translations(&self) -> &Translations {
        self.translator.translations()
    }
}

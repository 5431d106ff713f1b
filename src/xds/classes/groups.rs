//! All groups of proxies that share resources, and which of them a proxy belongs to.

use std::{
    collections::{BTreeSet, hash_map::Entry},
    mem,
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    added::{self, Added, AddedKey, AddedResources},
    by_place::LocatedResources,
    by_scope::{OutboundListeners, SharedByScope, Step, differing},
    key::{DistinguishingLabels, ListenersKey, LocatedKey, SharedKey, class_of, own_addresses, place_of},
    patch_findings::PatchFindings,
    patching::Patching,
    per_proxy::{PerProxy, PerProxyInputs},
    resource_cache::{ResourceCache, Translations},
    users::{Keys, Users},
};
use crate::{
    api::{Diagnostic, ObjectKey},
    mesh::{
        credential::SecretName,
        model::{Hostname, Proxy, ProxyKind},
        scope::{Scope, ScopeKey, scope_key, scope_of},
        telemetry::EffectiveTelemetry,
        world::{Touched, World},
    },
    translate::listener::Refused,
    xds::{per_type::PerType, resource_type::ResourceType, view::Layer},
};

/// What is kept for the proxies that are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupsSize {
    /// Groups of all sorts, scopes included.
    pub groups: usize,
    /// Translations.
    pub translations: usize,
}

impl Keys {
    /// Returns whether the proxy has endpoints of services on its own side.
    pub(super) fn have_endpoints(&self) -> bool {
        self.own.passes_mtls_on()
    }
}

/// Scopes by what decides about them.
pub(super) type Scopes = FxHashMap<ScopeKey, Scope>;

/// Hosts by the scope in which something about them changed.
pub(super) type ScopedHosts = FxHashMap<ScopeKey, Vec<Hostname>>;

/// The groups of all connected proxies.
#[derive(Default)]
pub(super) struct Groups {
    cache: ResourceCache,
    scopes: Scopes,
    shared: FxHashMap<SharedKey, SharedByScope>,
    listeners: FxHashMap<ListenersKey, OutboundListeners>,
    located: FxHashMap<LocatedKey, LocatedResources>,
    own: FxHashMap<Arc<PerProxyInputs>, PerProxy>,
    added: FxHashMap<Arc<AddedKey>, AddedResources>,
    /// How many proxies each group has.
    users: Users,
    /// Stands where a proxy has no layer. It is one for all, as equal layers are known by their pointers.
    empty: Layer,
}

impl Groups {
    /// Finds the groups of a proxy, and makes those that do not exist yet. `asking` is the proxy, and whether its caller has proven to
    /// be of its namespace.
    pub(super) fn ensure(&mut self, world: &World, asking: (&Proxy, bool), distinguishing: &DistinguishingLabels) -> Keys {
        let (proxy, _) = asking;
        let key = scope_key(world, proxy.kind, &proxy.namespace, &proxy.labels);
        let scope = self.scopes.entry(key.clone()).or_insert_with(|| scope_of(world, &key));
        let telemetry = EffectiveTelemetry::of(world, scope, proxy);
        let patching = Patching::of(world, proxy).with_extensions(|patches, having| {
            let (made, _) = added::made(ResourceType::ExtensionConfig, patches, having, &mut self.cache);
            made.iter().filter_map(Added::name).collect()
        });
        let shared = SharedKey { scope: key.clone(), class: class_of(world, proxy, distinguishing, None), patching: patching.of_scope() };
        if let Entry::Vacant(entry) = self.shared.entry(shared.clone()) {
            entry.insert(SharedByScope::new(world, scope, &shared, &mut self.cache));
        }
        let listeners = (proxy.kind == ProxyKind::Sidecar).then(|| ListenersKey {
            class: class_of(world, proxy, distinguishing, Some(&telemetry.client)),
            http_proxy_port: proxy.http_proxy_port,
            own: own_addresses(world, scope, proxy),
            ports: proxy.ports,
            patching: patching.of_outbound_listeners(),
            of_scope: shared.patching.clone(),
            scope: key,
        });
        if let Some(listeners) = &listeners
            && let Entry::Vacant(entry) = self.listeners.entry(listeners.clone())
        {
            let shared = self.shared.entry(shared.clone()).or_default();
            entry.insert(OutboundListeners::new(world, scope, listeners, shared, &mut self.cache));
        }
        let located = place_of(proxy, distinguishing).map(|place| LocatedKey { shared: shared.clone(), place });
        if let Some(located) = &located
            && let Entry::Vacant(entry) = self.located.entry(located.clone())
        {
            let shared = self.shared.entry(shared.clone()).or_default();
            entry.insert(LocatedResources::new(world, scope, located, shared, &mut self.cache));
        }
        let reports = if proxy.kind == ProxyKind::Gateway { &telemetry.client } else { &telemetry.server };
        let class = class_of(world, proxy, distinguishing, Some(reports));
        let own = PerProxyInputs::of(world, scope, &shared, asking, &class, patching.of_own());
        let own = Arc::new(own.without_collectors(telemetry.unseen));
        if let Entry::Vacant(entry) = self.own.entry(Arc::clone(&own)) {
            let clusters = self.shared.entry(shared.clone()).or_default().clusters();
            entry.insert(PerProxy::new(&own, clusters, &mut self.cache));
        }
        let added = Some(patching.of_added()).filter(|patching| !patching.patches.is_empty());
        let added = added
            .map(|patching| Arc::new(AddedKey { patching, shared: shared.clone(), listeners: listeners.clone(), own: Arc::clone(&own) }));
        if let Some(added) = &added
            && !self.added.contains_key(added)
        {
            let mut resources = AddedResources::new(&added.patching, &mut self.cache);
            resources.place(|kind, name| self.has(added, kind, name));
            self.added.insert(Arc::clone(added), resources);
        }
        Keys { shared, listeners, located, own, added }
    }

    /// Returns whether proxies have a resource of that name beside those that are added.
    fn has(&self, key: &AddedKey, kind: ResourceType, name: &str) -> bool {
        let shared = self.shared.get(&key.shared).and_then(|shared| shared.layer(kind));
        let listeners = key.listeners.as_ref().and_then(|key| self.listeners.get(key));
        let outbound = listeners.filter(|_| kind == ResourceType::Listener).map(OutboundListeners::layer);
        let own = self.own.get(&key.own).map(|own| own.layer(kind));
        [shared, outbound, own].into_iter().flatten().any(|layer| layer.contains_key(name))
    }

    /// Brings the scopes up to a new world, before proxies are sorted by them; returns those before.
    pub(super) fn update_scopes(&mut self, world: &World, touched: &Touched) -> Scopes {
        let next = |(key, scope): (&ScopeKey, &mut Scope)| {
            let next = scope.update(world, key, touched);
            (key.clone(), mem::replace(scope, next))
        };
        self.scopes.iter_mut().map(next).collect()
    }

    /// Returns the hosts that scopes which a Sidecar narrows see otherwise than before: routes import services there, so that
    /// services and rules for them come and go with routes.
    pub(super) fn hosts_seen_otherwise(&self, before: &Scopes) -> ScopedHosts {
        let narrowed = before.iter().filter(|(_, scope)| scope.sidecar.is_some());
        let differing = narrowed.filter_map(|(key, old)| {
            let new = self.scopes.get(key)?;
            let hosts = differing(&old.services, &new.services).chain(differing(&old.destination_rules, &new.destination_rules));
            Some((key.clone(), hosts.cloned().collect::<Vec<_>>()))
        });
        differing.filter(|(_, hosts)| !hosts.is_empty()).collect()
    }

    /// Brings all groups up to a new world; `before` holds the scopes that they were made for.
    pub(super) fn update(&mut self, world: &World, before: &Scopes, touched: &Touched) {
        let Self { scopes, shared, listeners, located, cache, .. } = self;
        let step = |key: &ScopeKey| Some(Step { world, old: before.get(key)?, new: scopes.get(key)?, touched });
        for (key, group) in &mut *shared {
            step(&key.scope).into_iter().for_each(|step| group.update(step, key, cache));
        }
        for (key, group) in listeners {
            let (Some(step), Some(shared)) = (step(&key.scope), shared.get(&key.shared())) else { continue };
            group.update(step, key, shared, cache);
        }
        for (key, group) in located {
            let (Some(step), Some(shared)) = (step(&key.shared.scope), shared.get(&key.shared)) else { continue };
            group.update(step, key, shared, cache);
        }
        let mut added = mem::take(&mut self.added);
        for (key, resources) in &mut added {
            resources.place(|kind, name| self.has(key, kind, name));
        }
        self.added = added;
    }

    /// Follows the clusters that appeared or vanished where a proxy's own listeners and routes name them.
    pub(super) fn check_own<'a>(&mut self, used: impl Iterator<Item = &'a Keys>) {
        if self.shared.values().all(|shared| shared.renamed().is_empty()) {
            return;
        }
        // Only gateways have such of their own.
        for keys in used.filter(|keys| keys.listeners.is_none()) {
            if let (Some(shared), Some(own)) = (self.shared.get(&keys.shared), self.own.get_mut(&keys.own)) {
                own.check(shared.clusters(), shared.renamed());
            }
        }
    }

    /// Returns what of the objects the proxies of these keys cannot be given.
    pub(super) fn findings<'a>(&self, world: &World, used: impl IntoIterator<Item = &'a Keys>) -> BTreeSet<Diagnostic> {
        let mut found = BTreeSet::new();
        let mut patches = PatchFindings::default();
        let mut asked: FxHashSet<*const ()> = FxHashSet::default();
        let mut first = |group: *const ()| asked.insert(group);
        for keys in used {
            let Some(scope) = self.scopes.get(&keys.shared.scope) else { continue };
            let Some(shared) = self.shared.get(&keys.shared) else { continue };
            let left_out = shared.left_out();
            if first(std::ptr::from_ref(shared).cast()) {
                found.extend(shared.findings(world, scope));
                patches.select(&keys.shared.patching.patches);
                shared.reports().for_each(|report| patches.report(report));
            }
            let listeners = keys.listeners.as_ref().and_then(|key| self.listeners.get(key));
            if let Some(listeners) = listeners.filter(|listeners| first(std::ptr::from_ref(*listeners).cast())) {
                found.extend(listeners.findings(world, scope, &left_out));
                found.extend(listeners.refused().map(finding));
                listeners.reports().for_each(|report| patches.report(report));
            }
            keys.listeners.iter().for_each(|key| patches.select(&key.patching.patches));
            let located = keys.located.as_ref().and_then(|key| self.located.get(key));
            if let Some(located) = located.filter(|located| first(std::ptr::from_ref(*located).cast())) {
                found.extend(located.findings());
                located.reports().for_each(|report| patches.report(report));
            }
            if let Some(own) = self.own.get(&keys.own).filter(|own| first(std::ptr::from_ref(*own).cast())) {
                found.extend(keys.own.refused().map(finding));
                found.extend(own.findings(world, scope, &left_out));
                keys.own.patches().into_iter().for_each(|of_own| patches.select(of_own));
                own.reports().for_each(|report| patches.report(report));
            }
            let added = keys.added.as_ref().and_then(|key| self.added.get(key));
            if let Some(added) = added.filter(|added| first(std::ptr::from_ref(*added).cast())) {
                added.reports().for_each(|report| patches.report(report));
            }
        }
        found.extend(patches.findings());
        found
    }

    /// Returns the secrets that a proxy asks for, with the objects that name them.
    pub(super) fn secrets<'a>(&'a self, keys: &'a Keys) -> impl Iterator<Item = &'a (ObjectKey, SecretName)> {
        self.shared.get(&keys.shared).into_iter().flat_map(SharedByScope::secrets).chain(keys.own.secrets())
    }

    /// Returns the layers of a proxy's view: of each type those that it shares, then those of its own.
    pub(super) fn layers(&self, keys: &Keys) -> PerType<Vec<Layer>> {
        let shared = self.shared.get(&keys.shared);
        let listeners = keys.listeners.as_ref().and_then(|key| self.listeners.get(key));
        let located = keys.located.as_ref().and_then(|key| self.located.get(key));
        let own = self.own.get(&keys.own);
        let added = keys.added.as_ref().and_then(|key| self.added.get(key));
        PerType::from_fn(|kind| {
            let outbound = listeners.filter(|_| kind == ResourceType::Listener).map(OutboundListeners::layer);
            let near = located.filter(|_| kind == ResourceType::Cluster).and_then(LocatedResources::clusters);
            let common = near.or_else(|| shared.and_then(|shared| shared.layer(kind))).or(outbound);
            let located = located.filter(|_| kind == ResourceType::Endpoint).map(LocatedResources::assignments);
            let layers = [common, located, own.map(|own| own.layer(kind))];
            let layers = layers.map(|layer| layer.unwrap_or(&self.empty));
            layers.into_iter().chain(added.map(|added| added.layer(kind))).cloned().collect()
        })
    }

    /// Adds a proxy to its groups.
    pub(super) fn enter(&mut self, keys: &Keys) {
        self.users.enter(keys);
    }

    /// Takes a proxy from its groups; returns whether some of them have none left. These stay until [`Self::drop_unused`].
    pub(super) fn leave(&mut self, keys: &Keys) -> bool {
        self.users.leave(keys)
    }

    /// Lets go of those groups of a proxy that is gone that have no other.
    pub(super) fn drop_unused(&mut self, keys: &Keys) {
        let unused = self.users.unused(keys);
        unused.shared.map(|key| self.shared.remove(key));
        unused.listeners.map(|key| self.listeners.remove(key));
        unused.located.map(|key| self.located.remove(key));
        unused.own.map(|key| self.own.remove(key));
        unused.added.map(|key| self.added.remove(key));
        unused.scope.map(|key| self.scopes.remove(key));
    }

    /// Lets go of translations that no group needs any more.
    pub(super) fn drop_translations(&mut self) {
        self.cache.drop_unused();
    }

    /// Returns how many groups there are, and how many translations are remembered.
    pub(super) fn size(&self) -> GroupsSize {
        GroupsSize {
            groups: self.scopes.len() + self.shared.len() + self.listeners.len() + self.located.len() + self.own.len() + self.added.len(),
            translations: self.cache.len(),
        }
    }

    /// Returns the counters of what was translated.
    pub(super) fn translations(&self) -> &Translations {
        self.cache.translations()
    }
}

fn finding(refused: &Refused) -> Diagnostic {
    Diagnostic::warning(refused.field.clone(), refused.reason.to_string()).of(&refused.origin.object)
}

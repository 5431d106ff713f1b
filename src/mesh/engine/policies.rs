//! Tables that hold objects nearly as written: namespaces, and the kinds that are attached to workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use smol_str::SmolStr;

use super::{Dirty, Engine};
use crate::{
    api::{Content, Id, Kind, Object, extension_provider::ExtAuthz, istio, key_set::KeySet},
    mesh::{
        authorization::{self, AuthorizationPolicy},
        configured::Configured,
        envoy_filter::EnvoyFilter,
        gateway::{self, Gateway},
        model::{Hostname, NamedKey, ServiceKey, Visibility},
        names,
        peer_authentication::{self, PeerAuthentication},
        policy::{destination_rule, mtls},
        policy_table::{Policy, PolicyTable, Replaced},
        providers::named,
        proxy_config::{self, ProxyConfig},
        rate_limit::RateLimitPolicy,
        reach::Reach,
        request_authentication::{self, FetchedKeys, JwtRule, Keys, RequestAuthentication},
        scope::rate_limit_reach,
        settings::MeshSettings,
        sidecar::{self, Sidecar},
        traffic::{self, DestinationRule},
        unsupported,
        world::World,
    },
    patience::Patient,
    visits::{Visit, Visited},
};

/// A kind with a table of its own in the world.
trait Tabled: PartialEq + Sized {
    /// What the objects say.
    type Content: Content;

    /// Returns what an object means.
    fn of(object: &Object, spec: &Arc<Self::Content>, mesh: &MeshSettings) -> Arc<Self>;

    /// Adds what is to be known of the content before.
    fn following(new: Arc<Self>, _before: &Configured<Self>) -> Arc<Self> {
        new
    }

    /// Returns the table.
    fn table(world: &mut World) -> &mut PolicyTable<Self>;

    /// Marks what depends on the objects that differ. `world` has the new ones, `engine.world` the old.
    fn touch(engine: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty);
}

impl Engine {
    /// Derives the tables of the changed objects and marks what depends on them.
    pub(super) fn derive_policies(&self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        self.derive_namespaces(world, changed, dirty);
        self.derive_table::<Gateway>(world, changed, dirty);
        self.derive_table::<Sidecar>(world, changed, dirty);
        self.derive_table::<PeerAuthentication>(world, changed, dirty);
        self.derive_table::<RequestAuthentication>(world, changed, dirty);
        self.derive_key_sets(world, changed, dirty);
        self.derive_table::<DestinationRule>(world, changed, dirty);
        self.derive_table::<AuthorizationPolicy>(world, changed, dirty);
        self.derive_table::<ProxyConfig>(world, changed, dirty);
        self.derive_table::<istio::Telemetry>(world, changed, dirty);
        self.derive_table::<EnvoyFilter>(world, changed, dirty);
        self.derive_table::<RateLimitPolicy>(world, changed, dirty);
        self.derive_unsupported(world, changed);
    }

    /// Notes what the changed objects ask for in vain. Only findings depend on it: the tables go without it by themselves.
    fn derive_unsupported(&self, world: &mut World, changed: &[Id]) {
        for id in changed {
            let Id::Config(id) = id else { continue };
            match self.store.config(id).and_then(|object| unsupported::of(object)) {
                Some(new) => _ = world.unsupported.insert(id.clone(), Arc::new(new)),
                None => _ = world.unsupported.remove(id),
            }
        }
    }

    fn derive_namespaces(&self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        for id in changed {
            let Id::Local(id) = id else { continue };
            let key = id.key();
            if key.kind != Kind::Namespace {
                continue;
            }
            dirty.recomputed += 1;
            // Clusters of one mesh mean the same namespace by one name: the first says its labels.
            let new = self.store.named(key.kind, &key.namespace, &key.name).next().map(|object| &object.metadata.labels);
            if world.namespaces.get(&key.name) == new {
                continue;
            }
            match new {
                Some(new) => _ = world.namespaces.insert(key.name.clone(), Arc::clone(new)),
                None => _ = world.namespaces.remove(&key.name),
            }
        }
    }

    /// Derives the keys of issuers, and marks the workloads for which rules want those that differ.
    fn derive_key_sets(&self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        let mut differing = BTreeSet::new();
        for id in changed {
            let Id::Config(id) = id else { continue };
            if id.kind != Kind::KeySet {
                continue;
            }
            dirty.recomputed += 1;
            let old = world.key_sets.get(&id.name).cloned();
            let known = old.as_ref().and_then(|old| old.keys.clone());
            let new = self.store.config_of::<KeySet>(&id.namespace, &id.name).map(|(_, set)| FetchedKeys {
                keys: set.keys.as_ref().map(|new| known.filter(|old| **old == **new).unwrap_or_else(|| new.as_str().into())),
                trouble: set.trouble.clone(),
            });
            if old.and_then(|old| old.keys) != new.as_ref().and_then(|new| new.keys.clone()) {
                differing.insert(id.name.clone());
            }
            match new {
                Some(new) => _ = world.key_sets.insert(id.name.clone(), new),
                None => _ = world.key_sets.remove(&id.name),
            }
        }
        if differing.is_empty() {
            return;
        }
        let wants = |rule: &Arc<JwtRule>| matches!(&rule.keys, Keys::At(url) if differing.contains(url));
        let wanting = world.request_authentications.values().visiting(Visited::Object).filter(|of| of.spec.rules.iter().any(wants));
        let namespaces: BTreeSet<SmolStr> = wanting.map(|of| of.origin.object.namespace.clone()).collect();
        dirty.touched.everything |= namespaces.contains(&world.mesh.root_namespace);
        dirty.touched.namespaces.extend(namespaces);
    }

    /// Marks the workloads whose policies have a service asked that appeared, vanished or differs.
    pub(super) fn touch_asking(&self, world: &World, dirty: &mut Dirty) {
        let differs = |provider: &Arc<ExtAuthz>| dirty.touched.services.contains(&named(&provider.service).1);
        let differing: BTreeSet<&SmolStr> = world.mesh.ext_authz.iter().filter(|(_, of)| differs(of)).map(|(name, _)| name).collect();
        if differing.is_empty() {
            return;
        }
        let policies = world.authorization_policies.values().visiting(Visited::Object);
        let asking = policies.filter(|policy| policy.spec.provider().is_some_and(|name| differing.contains(name)));
        dirty.touched.policies.extend(asking.map(|policy| Reach::of(policy, &world.mesh.root_namespace)));
    }

    /// Marks the workloads that report to a service that appeared, vanished or differs.
    pub(super) fn touch_reporting(&self, world: &World, dirty: &mut Dirty) {
        let services = &dirty.touched.services;
        let providers = world.mesh.providers.iter().filter(|of| of.takes().is_some());
        let differing = providers.filter(|of| of.service().is_some_and(|(written, _)| services.contains(&named(written).1)));
        let differing: Vec<&SmolStr> = differing.map(|of| &of.name).collect();
        if differing.is_empty() {
            return;
        }
        let names = |name: &SmolStr| differing.iter().any(|of| of.eq_ignore_ascii_case(name));
        if world.mesh.providers.defaults.names().any(names) {
            dirty.touched.policies.push(Reach::everywhere());
            return;
        }
        let objects = world.telemetries.values().visiting(Visited::Object);
        let reporting = objects.filter(|object| object.spec.providers().any(names));
        dirty.touched.policies.extend(reporting.map(|object| Reach::of(object, &world.mesh.root_namespace)));
    }

    fn derive_table<T: Tabled>(&self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        let mut replaced = Vec::new();
        for id in changed {
            let Id::Config(id) = id else { continue };
            if id.kind != T::Content::KIND {
                continue;
            }
            dirty.recomputed += 1;
            let new = self.store.config_of(&id.namespace, &id.name);
            let new = new.map(|(object, spec)| Configured::new(object, T::of(object, spec, &world.mesh)));
            let key = (id.namespace.clone(), id.name.clone());
            let new = new.map(|new| match T::table(world).get(&key) {
                Some(before) => Configured { spec: T::following(new.spec, before), ..new },
                None => new,
            });
            if let Some(both) = T::table(world).replace(&key, new) {
                replaced.push((key, both));
            }
        }
        if !replaced.is_empty() {
            T::touch(self, world, &replaced, dirty);
        }
    }

    /// Marks the services that a rule's host covers, and the routes that lead to them.
    fn touch_ruled_services(&self, host: &Hostname, dirty: &mut Dirty) {
        let covered: Vec<ServiceKey> = match host.is_wildcard() {
            true => self.definitions.all().filter(|key| host.covers(&key.hostname)).cloned().collect(),
            false => self.definitions.named(host).cloned().collect(),
        };
        for key in covered.into_iter().patiently() {
            dirty.leading.extend(self.routes.leading_to(&key.hostname).cloned());
            dirty.touched.services.insert(key.hostname);
        }
    }
}

/// Marks the workloads that the objects are or were for: those of their namespaces, or all. Returns whether it is all
/// of them.
fn touch_workloads<T: Policy>(world: &World, replaced: &[(NamedKey, Replaced<T>)], dirty: &mut Dirty) -> bool {
    let root = &world.mesh.root_namespace;
    let for_mesh = replaced.iter().any(|((namespace, _), both)| namespace == root && both.both().any(|object| object.is_namespace_wide()));
    dirty.touched.namespaces.extend(replaced.iter().map(|((namespace, _), _)| namespace.clone()));
    dirty.touched.everything |= for_mesh;
    for_mesh
}

/// Marks the workloads that the objects are or were for, for kinds of which nothing else depends than these workloads' own side.
fn touch_selected<T: Policy>(world: &World, replaced: &[(NamedKey, Replaced<T>)], dirty: &mut Dirty) {
    let objects = replaced.iter().flat_map(|(_, both)| both.both());
    dirty.touched.policies.extend(objects.map(|object| Reach::of(object, &world.mesh.root_namespace)));
}

impl Tabled for Gateway {
    type Content = istio::Gateway;

    fn of(object: &Object, spec: &Arc<istio::Gateway>, _: &MeshSettings) -> Arc<Self> {
        Arc::new(gateway::istio::gateway(spec, &object.key.namespace))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.gateways
    }

    fn touch(_: &Engine, _: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        dirty.touched.gateways.extend(replaced.iter().map(|(key, _)| key.clone()));
    }
}

impl Tabled for Sidecar {
    type Content = istio::Sidecar;

    fn of(_: &Object, spec: &Arc<istio::Sidecar>, _: &MeshSettings) -> Arc<Self> {
        Arc::new(sidecar::sidecar(spec))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.sidecars
    }

    fn touch(_: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        touch_workloads(world, replaced, dirty);
    }
}

impl Tabled for PeerAuthentication {
    type Content = istio::PeerAuthentication;

    fn of(_: &Object, spec: &Arc<istio::PeerAuthentication>, _: &MeshSettings) -> Arc<Self> {
        Arc::new(peer_authentication::peer_authentication(spec))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.peer_authentications
    }

    /// Marks endpoints, which show whether they take mTLS, and services, whose clients expect the mode of the namespace.
    fn touch(engine: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        if touch_workloads(world, replaced, dirty) {
            dirty.endpoints.extend(engine.definitions.all().cloned());
            return;
        }
        let namespaces: BTreeSet<&SmolStr> = replaced.iter().map(|((namespace, _), _)| namespace).collect();
        for namespace in namespaces {
            let services = || engine.definitions.in_namespace(namespace);
            dirty.endpoints.extend(services());
            if mtls::service_mtls(&engine.world, namespace) != mtls::service_mtls(world, namespace) {
                dirty.touched.services.extend(services().map(|key| key.hostname.clone()));
            }
        }
    }
}

impl Tabled for RequestAuthentication {
    type Content = istio::RequestAuthentication;

    fn of(_: &Object, spec: &Arc<istio::RequestAuthentication>, _: &MeshSettings) -> Arc<Self> {
        Arc::new(request_authentication::request_authentication(spec))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.request_authentications
    }

    fn touch(_: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        touch_selected(world, replaced, dirty);
    }
}

impl Tabled for AuthorizationPolicy {
    type Content = istio::AuthorizationPolicy;

    fn of(object: &Object, spec: &Arc<istio::AuthorizationPolicy>, mesh: &MeshSettings) -> Arc<Self> {
        authorization::authorization_policy(object, spec, mesh)
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.authorization_policies
    }

    fn touch(_: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        touch_selected(world, replaced, dirty);
    }
}

impl Tabled for ProxyConfig {
    type Content = istio::ProxyConfig;

    fn of(_: &Object, spec: &Arc<istio::ProxyConfig>, _: &MeshSettings) -> Arc<Self> {
        Arc::new(proxy_config::proxy_config(spec))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.proxy_configs
    }

    /// Marks nothing: pods that are created later are injected by it, and proxies that run stay as they were started.
    fn touch(_: &Engine, _: &mut World, _: &[(NamedKey, Replaced<Self>)], _: &mut Dirty) {}
}

impl Tabled for istio::Telemetry {
    type Content = Self;

    fn of(_: &Object, spec: &Arc<Self>, _: &MeshSettings) -> Arc<Self> {
        Arc::clone(spec)
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.telemetries
    }

    fn touch(_: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        touch_selected(world, replaced, dirty);
    }
}

impl Tabled for EnvoyFilter {
    type Content = istio::EnvoyFilter;

    fn of(object: &Object, spec: &Arc<istio::EnvoyFilter>, _: &MeshSettings) -> Arc<Self> {
        Arc::new(Self::of(object, spec))
    }

    fn following(new: Arc<Self>, before: &Configured<Self>) -> Arc<Self> {
        Arc::new(Arc::unwrap_or_clone(new).following(before))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.envoy_filters
    }

    fn touch(_: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        touch_selected(world, replaced, dirty);
    }
}

impl Tabled for RateLimitPolicy {
    type Content = Self;

    fn of(_: &Object, spec: &Arc<Self>, _: &MeshSettings) -> Arc<Self> {
        Arc::clone(spec)
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.rate_limit_policies
    }

    fn touch(_: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        let policies = replaced.iter().flat_map(|(_, both)| both.both());
        dirty.touched.policies.extend(policies.flat_map(|policy| rate_limit_reach(world, policy)));
    }
}

impl Tabled for DestinationRule {
    type Content = istio::DestinationRule;

    fn of(object: &Object, spec: &Arc<istio::DestinationRule>, mesh: &MeshSettings) -> Arc<Self> {
        let namespace = &object.key.namespace;
        let host = names::full_hostname(&spec.host, namespace, &mesh.domain);
        // A rule that selects clients is for those of its own namespace alone.
        let export_to = match spec.workload_selector {
            Some(_) => Visibility::Namespaces([namespace.clone()].into()),
            None => names::visibility(&spec.export_to, &mesh.default_destination_rule_export_to, namespace),
        };
        Arc::new(traffic::istio::destination_rule(spec, host, export_to))
    }

    fn table(world: &mut World) -> &mut PolicyTable<Self> {
        &mut world.destination_rules
    }

    fn touch(engine: &Engine, world: &mut World, replaced: &[(NamedKey, Replaced<Self>)], dirty: &mut Dirty) {
        let mut by_host: BTreeMap<(SmolStr, Hostname), Vec<Arc<Configured<Self>>>> = BTreeMap::new();
        for ((namespace, _), both) in replaced {
            // Which rules select a proxy is part of its scope's key.
            if both.both().any(|rule| rule.spec.workload_selector.is_some()) {
                dirty.touched.namespaces.insert(namespace.clone());
            }
            for rule in both.both() {
                by_host.entry((namespace.clone(), rule.spec.host.clone())).or_default();
            }
            count_places(world, both);
            if let Some(new) = &both.new {
                by_host.entry((namespace.clone(), new.spec.host.clone())).or_default().push(Arc::clone(new));
            }
        }
        for (key, new) in by_host {
            dirty.recomputed += 1;
            relist_rules(world, &key, new);
            engine.touch_ruled_services(&key.1, dirty);
        }
    }
}

/// Counts what of clients' places counts by the rules that there are.
fn count_places(world: &mut World, both: &Replaced<DestinationRule>) {
    if let Some(old) = both.old.as_ref().map(|rule| rule.spec.place()).filter(|place| !place.is_empty()) {
        match world.rule_places.get(&old).copied() {
            Some(rules @ 2..) => world.rule_places.insert(old, rules - 1),
            _ => world.rule_places.remove(&old),
        };
    }
    if let Some(new) = both.new.as_ref().map(|rule| rule.spec.place()).filter(|place| !place.is_empty()) {
        *world.rule_places.entry(new).or_default() += 1;
    }
}

/// Lists the rules of a host again: the new ones, and those that stay.
fn relist_rules(world: &mut World, key: &(SmolStr, Hostname), new: Vec<Arc<Configured<DestinationRule>>>) {
    let (namespace, host) = key;
    let stays = |rule: &&Arc<Configured<DestinationRule>>| {
        let current = world.destination_rules.get(&(namespace.clone(), rule.origin.object.name.clone()));
        current.is_some_and(|current| Arc::ptr_eq(current, rule))
    };
    let listed = world.rules_by_host.get(namespace).and_then(|hosts| hosts.get(host));
    let mut rules: Vec<_> = listed.into_iter().flat_map(|listed| listed.rules.iter()).filter(stays).cloned().collect();
    rules.extend(new);
    let hosts = world.rules_by_host.entry(namespace.clone()).or_default();
    if rules.is_empty() {
        hosts.remove(host);
    } else {
        hosts.insert(host.clone(), Arc::new(destination_rule::host_rules(rules)));
    }
    if hosts.is_empty() {
        world.rules_by_host.remove(namespace);
    }
}

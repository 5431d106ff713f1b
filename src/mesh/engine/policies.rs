//! Tables that hold objects nearly as written: namespaces, DestinationRules, Gateways, Sidecars, PeerAuthentications.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{
    Dirty, Engine, hosts,
    services::{origin, precedence},
    store::Id,
};
use crate::{
    api::{Kind, Labels, Object, Spec, mesh_config::MeshConfig},
    mesh::{
        model::{Hostname, ServiceKey},
        policy::{destination_rule, mtls},
        world::{DestinationRule, Gateway, PeerAuthentication, Sidecar, World},
    },
};

impl Engine {
    /// Derives the tables of the changed objects and marks what depends on them.
    pub(super) fn derive_policies(&self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        let mut rules: BTreeMap<(SmolStr, Hostname), Vec<Arc<DestinationRule>>> = BTreeMap::new();
        let mut peer_namespaces = BTreeSet::new();
        for id in changed {
            let key = (id.namespace.clone(), id.name.clone());
            let root = id.namespace == world.mesh.root_namespace;
            let object = self.store.get(id);
            match id.kind {
                Kind::Namespace => {
                    dirty.recomputed += 1;
                    let labels = object.map(|object| Labels::clone(&object.metadata.labels));
                    replace(&mut world.namespaces, &id.name, labels);
                }
                Kind::Gateway => {
                    dirty.recomputed += 1;
                    if replace(&mut world.gateways, &key, object.and_then(|object| gateway(object))).is_some() {
                        dirty.touched.gateways.insert(key);
                    }
                }
                Kind::Sidecar => {
                    dirty.recomputed += 1;
                    let Some((old, new)) = replace(&mut world.sidecars, &key, object.and_then(|object| sidecar(object))) else { continue };
                    let for_all = [old, new].into_iter().flatten().any(|sidecar| sidecar.spec.workload_selector.is_none());
                    dirty.touched.everything |= root && for_all;
                    dirty.touched.namespaces.insert(id.namespace.clone());
                }
                Kind::PeerAuthentication => {
                    dirty.recomputed += 1;
                    peer_namespaces.insert(id.namespace.clone());
                }
                Kind::DestinationRule => {
                    dirty.recomputed += 1;
                    let new = object.and_then(|object| rule(object, &world.mesh));
                    let Some((old, new)) = replace(&mut world.destination_rules, &key, new) else { continue };
                    // Which rules select a proxy is part of its scope's key.
                    if old.iter().chain(&new).any(|rule| rule.spec.workload_selector.is_some()) {
                        dirty.touched.namespaces.insert(id.namespace.clone());
                    }
                    let at = |rule: &Arc<DestinationRule>| (id.namespace.clone(), rule.host.clone());
                    if let Some(old) = old {
                        rules.entry(at(&old)).or_default();
                    }
                    if let Some(new) = new {
                        rules.entry(at(&new)).or_default().push(new);
                    }
                }
                _ => {}
            }
        }
        self.derive_peer_authentications(world, changed, &peer_namespaces, dirty);
        self.derive_rules_by_host(world, rules, dirty);
    }

    fn derive_peer_authentications(&self, world: &mut World, changed: &[Id], namespaces: &BTreeSet<SmolStr>, dirty: &mut Dirty) {
        let root = world.mesh.root_namespace.clone();
        for namespace in namespaces {
            let before = mtls::service_mtls(world, namespace);
            let mut for_all = false;
            let mut differs = false;
            for id in changed.iter().filter(|id| id.kind == Kind::PeerAuthentication && id.namespace == *namespace) {
                let new = self.store.get(id).and_then(|object| peer_authentication(object));
                let Some((old, new)) = replace(&mut world.peer_authentications, &(namespace.clone(), id.name.clone()), new) else {
                    continue;
                };
                differs = true;
                for_all |= [old, new].into_iter().flatten().any(|policy| mtls::is_namespace_wide(&policy));
            }
            if !differs {
                continue;
            }
            dirty.touched.namespaces.insert(namespace.clone());
            if *namespace == root && for_all {
                dirty.touched.everything = true;
                dirty.endpoints.extend(self.definitions.all().cloned());
                continue;
            }
            dirty.endpoints.extend(self.definitions.in_namespace(namespace).cloned());
            if before != mtls::service_mtls(world, namespace) {
                dirty.touched.services.extend(self.definitions.in_namespace(namespace).map(|key| key.hostname.clone()));
            }
        }
    }

    /// `changed` has the new rules of each host whose rules changed; the others of that host stay.
    fn derive_rules_by_host(
        &self,
        world: &mut World,
        changed: BTreeMap<(SmolStr, Hostname), Vec<Arc<DestinationRule>>>,
        dirty: &mut Dirty,
    ) {
        for ((namespace, host), new) in changed {
            dirty.recomputed += 1;
            let key = (namespace, host.clone());
            let stays = |rule: &&Arc<DestinationRule>| {
                let table = world.destination_rules.get(&(key.0.clone(), rule.origin.object.name.clone()));
                table.is_some_and(|current| Arc::ptr_eq(current, rule))
            };
            let listed = world.rules_by_host.get(&key);
            let mut rules: Vec<_> = listed.into_iter().flat_map(|listed| listed.rules.iter()).filter(stays).cloned().collect();
            rules.extend(new);
            if rules.is_empty() {
                world.rules_by_host.remove(&key);
            } else {
                world.rules_by_host.insert(key, Arc::new(destination_rule::host_rules(rules)));
            }
            self.touch_ruled_services(world, &host, dirty);
        }
    }

    /// Services that a rule's host covers, and the routes that lead to them.
    fn touch_ruled_services(&self, world: &World, host: &Hostname, dirty: &mut Dirty) {
        let covered: Vec<ServiceKey> = match host.is_wildcard() {
            true => self.definitions.all().filter(|key| host.covers(&key.hostname)).cloned().collect(),
            false => self.definitions.named(host),
        };
        for key in covered {
            dirty.touched.routes.extend(self.routes.hosts_routing_to(&key.hostname, world));
            dirty.touched.services.insert(key.hostname);
        }
    }
}

/// What stood in a table and what stands there now.
type Replaced<V> = (Option<Arc<V>>, Option<Arc<V>>);

/// Puts the new value in the table, unless it equals the old; then gives both.
fn replace<K: Ord + Clone, V: PartialEq>(table: &mut OrdMap<K, Arc<V>>, key: &K, new: Option<V>) -> Option<Replaced<V>> {
    if table.get(key).map(|old| &**old) == new.as_ref() {
        return None;
    }
    let new = new.map(Arc::new);
    let old = match &new {
        Some(new) => table.insert(key.clone(), Arc::clone(new)),
        None => table.remove(key),
    };
    Some((old, new))
}

fn rule(object: &Object, mesh: &MeshConfig) -> Option<DestinationRule> {
    let Spec::DestinationRule(spec) = &object.spec else { return None };
    Some(DestinationRule {
        host: hosts::full_hostname(&spec.host, &object.key.namespace, &mesh.domain),
        spec: Arc::clone(spec),
        export_to: hosts::visibility(&spec.export_to, &mesh.default_destination_rule_export_to, &object.key.namespace),
        precedence: precedence(object),
        origin: origin(object),
    })
}

fn gateway(object: &Object) -> Option<Gateway> {
    let Spec::Gateway(spec) = &object.spec else { return None };
    Some(Gateway { spec: Arc::clone(spec), precedence: precedence(object), origin: origin(object) })
}

fn sidecar(object: &Object) -> Option<Sidecar> {
    let Spec::Sidecar(spec) = &object.spec else { return None };
    Some(Sidecar { spec: Arc::clone(spec), precedence: precedence(object), origin: origin(object) })
}

fn peer_authentication(object: &Object) -> Option<PeerAuthentication> {
    let Spec::PeerAuthentication(spec) = &object.spec else { return None };
    Some(PeerAuthentication { spec: Arc::clone(spec), precedence: precedence(object), origin: origin(object) })
}

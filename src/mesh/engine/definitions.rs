//! Which objects define which services. Several may define one; the order among them never depends on arrival.

use std::{collections::BTreeSet, hash::Hash};

use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;

use super::store::Id;
use crate::{
    api::{Labels, selects},
    mesh::model::{Hostname, Precedence, Registry, Service, ServiceKey},
};

/// Kubernetes before ServiceEntries, then by age.
type Order = (Registry, Precedence);

/// Definitions of services by key and by object.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// Sorted. The first shapes the service, all give it endpoints.
    by_key: FxHashMap<ServiceKey, Vec<(Order, Service)>>,
    by_object: FxHashMap<Id, Vec<(ServiceKey, Order)>>,
    /// ServiceEntries that select workloads, by namespace.
    selecting: FxHashMap<SmolStr, FxHashSet<ServiceKey>>,
    /// ExternalName services by where they point.
    aliases: FxHashMap<Hostname, FxHashSet<Hostname>>,
    /// Keys by namespace.
    namespaces: FxHashMap<SmolStr, FxHashSet<ServiceKey>>,
    /// The namespaces that define a host.
    hosts: FxHashMap<Hostname, Vec<SmolStr>>,
}

impl Definitions {
    /// Replaces what an object defines; gives the keys that it defined before or defines now.
    pub(super) fn set(&mut self, id: &Id, services: Vec<Service>) -> Vec<ServiceKey> {
        let mut keys = Vec::new();
        for (key, order) in self.by_object.remove(id).unwrap_or_default() {
            self.remove(&key, &order);
            keys.push(key);
        }
        let mut defined = Vec::with_capacity(services.len());
        for service in services {
            let (key, order) = (service.key(), (service.registry, service.precedence.clone()));
            defined.push((key.clone(), order.clone()));
            keys.push(key.clone());
            self.insert(key, order, service);
        }
        if !defined.is_empty() {
            self.by_object.insert(id.clone(), defined);
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Definitions of a service, the one that shapes it first.
    pub(super) fn of<'a>(&'a self, key: &ServiceKey) -> impl Iterator<Item = &'a Service> + use<'a> {
        self.by_key.get(key).into_iter().flat_map(|definitions| definitions.iter().map(|(_, service)| service))
    }

    /// All services defined in a namespace.
    pub(super) fn in_namespace(&self, namespace: &SmolStr) -> impl Iterator<Item = &ServiceKey> {
        self.namespaces.get(namespace).into_iter().flatten()
    }

    /// All services.
    pub(super) fn all(&self) -> impl Iterator<Item = &ServiceKey> {
        self.by_key.keys()
    }

    /// Services that an object defines.
    pub(super) fn defined_by(&self, id: &Id) -> impl Iterator<Item = &ServiceKey> {
        self.by_object.get(id).into_iter().flatten().map(|(key, _)| key)
    }

    /// ServiceEntry services of a namespace that select workloads.
    pub(super) fn selecting(&self, namespace: &SmolStr) -> impl Iterator<Item = &ServiceKey> {
        self.selecting.get(namespace).into_iter().flatten()
    }

    /// ServiceEntry services of a namespace that select workloads with these labels.
    pub(super) fn selecting_labels(&self, namespace: &SmolStr, labels: &Labels) -> Vec<ServiceKey> {
        let selected = |key: &&ServiceKey| self.of(key).any(|service| is_selecting(service) && selects(&service.selector, labels));
        self.selecting(namespace).filter(selected).cloned().collect()
    }

    /// Names that lead to a hostname over ExternalName services, sorted.
    pub(super) fn aliases_of(&self, target: &Hostname) -> Vec<Hostname> {
        let mut found = BTreeSet::new();
        let mut open = vec![target];
        while let Some(name) = open.pop() {
            for alias in self.aliases.get(name).into_iter().flatten() {
                if alias != target && found.insert(alias.clone()) {
                    open.push(alias);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Services that a hostname leads to over ExternalName services: their aliases depend on it.
    pub(super) fn aliased_by(&self, alias: &Hostname) -> Vec<ServiceKey> {
        let (mut keys, mut seen, mut open) = (Vec::new(), BTreeSet::new(), vec![alias.clone()]);
        while let Some(name) = open.pop() {
            for service in self.named(&name) {
                let Some(target) = self.of(&service).find_map(|service| service.external_name.clone()) else { continue };
                if seen.insert(target.clone()) {
                    keys.extend(self.named(&target));
                    open.push(target);
                }
            }
        }
        keys
    }

    /// Services of that hostname, of all namespaces.
    pub(super) fn named(&self, host: &Hostname) -> Vec<ServiceKey> {
        let namespaces = self.hosts.get(host).into_iter().flatten();
        namespaces.map(|namespace| ServiceKey { hostname: host.clone(), namespace: namespace.clone() }).collect()
    }

    fn insert(&mut self, key: ServiceKey, order: Order, service: Service) {
        if let Some(target) = &service.external_name {
            self.aliases.entry(target.clone()).or_default().insert(key.hostname.clone());
        }
        if is_selecting(&service) {
            self.selecting.entry(key.namespace.clone()).or_default().insert(key.clone());
        }
        if !self.by_key.contains_key(&key) {
            self.namespaces.entry(key.namespace.clone()).or_default().insert(key.clone());
            self.hosts.entry(key.hostname.clone()).or_default().push(key.namespace.clone());
        }
        // Mostly it is the only one.
        let definitions = self.by_key.entry(key).or_insert_with(|| Vec::with_capacity(1));
        match definitions.binary_search_by(|(other, _)| other.cmp(&order)) {
            Ok(at) => definitions[at].1 = service,
            Err(at) => definitions.insert(at, (order, service)),
        }
    }

    fn remove(&mut self, key: &ServiceKey, order: &Order) {
        let Some(definitions) = self.by_key.get_mut(key) else { return };
        let at = definitions.binary_search_by(|(other, _)| other.cmp(order)).ok();
        let removed = at.map(|at| definitions.remove(at).1);
        if !definitions.iter().any(|(_, service)| is_selecting(service)) {
            remove_from(&mut self.selecting, &key.namespace, key);
        }
        if definitions.is_empty() {
            self.by_key.remove(key);
            remove_from(&mut self.namespaces, &key.namespace, key);
            if let Some(namespaces) = self.hosts.get_mut(&key.hostname) {
                namespaces.retain(|namespace| *namespace != key.namespace);
                if namespaces.is_empty() {
                    self.hosts.remove(&key.hostname);
                }
            }
        }
        if let Some(target) = removed.and_then(|service| service.external_name) {
            remove_from(&mut self.aliases, &target, &key.hostname);
        }
    }
}

/// Whether it is a ServiceEntry with a `workloadSelector`.
fn is_selecting(service: &Service) -> bool {
    service.registry == Registry::External && !service.selector.is_empty()
}

fn remove_from<K: Eq + Hash, V: Eq + Hash>(table: &mut FxHashMap<K, FxHashSet<V>>, at: &K, value: &V) {
    let Some(values) = table.get_mut(at) else { return };
    values.remove(value);
    if values.is_empty() {
        table.remove(at);
    }
}

//! Which objects define which services. Several may define one; the order among them never depends on arrival.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{endpoints::may_select_entries, relation::Relation};
use crate::{
    api::Id,
    mesh::model::{Hostname, LocatedLabels, Precedence, Registry, Service, ServiceKey, Workload},
};

/// Definitions of services by key and by object. A copy shares them with its source.
#[derive(Clone, Default)]
pub(super) struct Definitions {
    /// Sorted. The first shapes the service, all give it endpoints.
    by_key: OrdMap<ServiceKey, Vec<Arc<Service>>>,
    by_object: OrdMap<Id, Arc<[ServiceKey]>>,
    /// ServiceEntries that select workloads: hosts by namespace.
    selecting: Relation<SmolStr, Hostname>,
    /// ExternalName services by where they point.
    aliases: Relation<Hostname, Hostname>,
    /// Hosts by the namespace that defines them.
    namespaces: Relation<SmolStr, Hostname>,
}

impl Definitions {
    /// Replaces what an object defines; returns the keys that it defined before or defines now.
    pub(super) fn set(&mut self, id: &Id, services: Vec<Service>) -> Vec<ServiceKey> {
        let mut keys: Vec<ServiceKey> = self.defined_by(id).cloned().collect();
        self.by_object.remove(id);
        for key in &keys {
            self.remove(key, id);
        }
        if !services.is_empty() {
            self.by_object.insert(id.clone(), services.iter().map(Service::key).collect());
        }
        for service in services {
            keys.push(service.key());
            self.insert(service);
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Returns the definitions of a service, the one that shapes it first.
    pub(super) fn of<'a>(&'a self, key: &ServiceKey) -> impl Iterator<Item = &'a Service> + use<'a> {
        self.by_key.get(key).into_iter().flat_map(|definitions| definitions.iter().map(|service| &**service))
    }

    /// Returns all services defined in a namespace.
    pub(super) fn in_namespace<'a>(&'a self, namespace: &'a SmolStr) -> impl Iterator<Item = ServiceKey> {
        keys(self.namespaces.of(namespace), namespace)
    }

    /// Returns all services.
    pub(super) fn all(&self) -> impl Iterator<Item = &ServiceKey> {
        self.by_key.keys()
    }

    /// Returns the services that an object defines.
    pub(super) fn defined_by(&self, id: &Id) -> impl Iterator<Item = &ServiceKey> {
        self.by_object.get(id).into_iter().flat_map(|keys| keys.iter())
    }

    /// Returns the ServiceEntry services of a namespace that select workloads.
    pub(super) fn selecting<'a>(&'a self, namespace: &'a SmolStr) -> impl Iterator<Item = ServiceKey> {
        keys(self.selecting.of(namespace), namespace)
    }

    /// Returns the ServiceEntry services of a namespace that select workloads with these labels.
    pub(super) fn selecting_labels<'a>(
        &'a self,
        namespace: &'a SmolStr,
        labels: LocatedLabels<'a>,
    ) -> impl Iterator<Item = ServiceKey> + use<'a> {
        let selected =
            move |key: &ServiceKey| self.of(key).any(|service| is_selecting(service) && labels.are_selected_by(&service.selector));
        self.selecting(namespace).filter(selected)
    }

    /// Returns the Kubernetes Services that select a WorkloadEntry.
    pub(super) fn selecting_entry(&self, entry: &Workload) -> Vec<ServiceKey> {
        let selecting = |service: &Service| may_select_entries(service) && entry.located_labels().are_selected_by(&service.selector);
        self.in_namespace(&entry.namespace).filter(|key| self.of(key).any(selecting)).collect()
    }

    /// Returns the names that lead to a hostname through ExternalName services, sorted.
    pub(super) fn aliases_of(&self, target: &Hostname) -> Vec<Hostname> {
        let mut found = BTreeSet::new();
        let mut open = vec![target];
        while let Some(name) = open.pop() {
            for alias in self.aliases.of(name) {
                if alias != target && found.insert(alias.clone()) {
                    open.push(alias);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Returns the services that a hostname leads to through ExternalName services: their aliases depend on it.
    pub(super) fn aliased_by(&self, alias: &Hostname) -> Vec<ServiceKey> {
        if self.aliases.is_empty() {
            return Vec::new();
        }
        let (mut keys, mut seen, mut open) = (Vec::new(), BTreeSet::new(), vec![alias.clone()]);
        while let Some(name) = open.pop() {
            for service in self.named(&name) {
                let Some(target) = self.target(service) else { continue };
                if seen.insert(target.clone()) {
                    keys.extend(self.named(&target).cloned());
                    open.push(target);
                }
            }
        }
        keys
    }

    /// Returns the services of that hostname, of all namespaces.
    pub(super) fn named<'a>(&'a self, host: &'a Hostname) -> impl Iterator<Item = &'a ServiceKey> {
        let first = ServiceKey { hostname: host.clone(), namespace: SmolStr::default() };
        self.by_key.range(first..).map(|(key, _)| key).take_while(move |key| key.hostname == *host)
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.by_key.ptr_eq(&other.by_key)
            && self.by_object.ptr_eq(&other.by_object)
            && self.selecting.is_shared_with(&other.selecting)
            && self.aliases.is_shared_with(&other.aliases)
            && self.namespaces.is_shared_with(&other.namespaces)
    }

    fn insert(&mut self, service: Service) {
        let key = service.key();
        let target = self.target(&key);
        if is_selecting(&service) {
            self.selecting.insert(&key.namespace, &key.hostname);
        }
        let Some(definitions) = self.by_key.get_mut(&key) else {
            self.namespaces.insert(&key.namespace, &key.hostname);
            self.by_key.insert(key.clone(), vec![Arc::new(service)]);
            return self.move_alias(&key, target);
        };
        match definitions.binary_search_by(|other| order(other).cmp(&order(&service))) {
            Ok(at) => definitions[at] = Arc::new(service),
            Err(at) => definitions.insert(at, Arc::new(service)),
        }
        self.move_alias(&key, target);
    }

    /// Removes what an object says about a service.
    fn remove(&mut self, key: &ServiceKey, id: &Id) {
        let target = self.target(key);
        let Some(definitions) = self.by_key.get_mut(key) else { return };
        definitions.retain(|service| !id.is_of(&service.origin.object));
        if !definitions.iter().any(|service| is_selecting(service)) {
            self.selecting.remove(&key.namespace, &key.hostname);
        }
        if definitions.is_empty() {
            self.by_key.remove(key);
            self.namespaces.remove(&key.namespace, &key.hostname);
        }
        self.move_alias(key, target);
    }

    /// Returns where an ExternalName service points, by the definition that shapes it.
    fn target(&self, key: &ServiceKey) -> Option<Hostname> {
        self.of(key).next()?.external_name.clone()
    }

    /// Brings `aliases` up to date after the definitions of a service changed; `before` is where it pointed.
    fn move_alias(&mut self, key: &ServiceKey, before: Option<Hostname>) {
        let now = self.target(key);
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.aliases.remove(&before, &key.hostname);
        }
        if let Some(now) = now {
            self.aliases.insert(&now, &key.hostname);
        }
    }
}

/// Returns what services of one name are sorted by: Kubernetes' Services come before ServiceEntries, then the cluster's
/// name decides, then age.
fn order(service: &Service) -> (Registry, &str, &Precedence) {
    let cluster = match service.registry {
        Registry::Kubernetes => service.origin.object.cluster.as_str(),
        Registry::External => "",
    };
    (service.registry, cluster, &service.precedence)
}

/// Returns whether it is a ServiceEntry with a `workloadSelector`.
fn is_selecting(service: &Service) -> bool {
    service.registry == Registry::External && !service.selector.is_empty()
}

fn keys<'a>(hosts: impl Iterator<Item = &'a Hostname>, namespace: &'a SmolStr) -> impl Iterator<Item = ServiceKey> {
    hosts.map(|host| ServiceKey { hostname: host.clone(), namespace: namespace.clone() })
}

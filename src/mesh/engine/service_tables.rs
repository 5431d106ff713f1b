//! Services and their endpoints: derived from what defines them, with what a change of them touches.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use rustc_hash::FxHashSet;
use smol_str::SmolStr;

use super::{
    Dirty, Engine,
    endpoints::{self, Tables},
    joining, services,
};
use crate::{
    api::{Kind, LocalId, Object},
    mesh::{
        model::{Endpoint, EndpointAddress, EndpointSet, NamedKey, Registry, Service, ServiceKey, SpiffeId, UnusedEndpoint},
        policy::mtls,
        traffic::own_place_detail,
        world::World,
    },
    patience::Patient,
    visits::{Visit, Visited},
};

/// What the objects say of the endpoints of one service.
struct Found {
    endpoints: EndpointSet,
    /// The WorkloadEntries that it selects.
    selected: Vec<NamedKey>,
    /// Endpoints that are written and not used.
    unused: Vec<UnusedEndpoint>,
}

impl Engine {
    pub(super) fn derive_definitions(&mut self, world: &mut World, dirty: &mut Dirty) {
        for id in dirty.definitions.take().into_iter().patiently().visiting(Visited::Object) {
            dirty.recomputed += 1;
            let of_namespace = |object: &Object| self.distributions.get(&object.key.namespace).copied().unwrap_or_default();
            let services =
                self.store.get(&id).map(|object| services::defined_by(object, &world.mesh, of_namespace(object))).unwrap_or_default();
            // What the aliases among them pointed to, before and after.
            let hosts = self.definitions.defined_by(&id).map(|key| &key.hostname).chain(services.iter().map(|service| &service.hostname));
            dirty.services.extend(hosts.flat_map(|host| self.definitions.aliased_by(host)));
            for key in self.definitions.set(&id, services) {
                dirty.services.extend(self.definitions.aliased_by(&key.hostname));
                dirty.endpoints.insert(key.clone());
                dirty.services.insert(key);
            }
        }
    }

    pub(super) fn derive_endpoints(&mut self, world: &mut World, dirty: &mut Dirty) {
        for key in dirty.endpoints.take().into_iter().patiently().visiting(Visited::Service) {
            dirty.recomputed += 1;
            let found = self.endpoints_of(world, &key);
            let new = Arc::new(found.endpoints);
            note(&mut world.unused_endpoints, &key, found.unused);
            self.selected_entries.set(&key, found.selected);
            let none = Arc::default();
            let old = Arc::clone(world.endpoints.get(&key).unwrap_or(&none));
            if old == new {
                continue;
            }
            dirty.touched.endpoints.insert(key.hostname.clone());
            if mtls::all_take_mtls(&old) != mtls::all_take_mtls(&new) {
                dirty.touched.services.insert(key.hostname.clone());
            }
            index_addresses(world, &key, &old, &new, &mut dirty.touched.addresses);
            dirty.services.insert(key.clone());
            if new.ports.is_empty() {
                world.endpoints.remove(&key);
            } else {
                world.endpoints.insert(key, new);
            }
        }
    }

    fn endpoints_of(&self, world: &World, key: &ServiceKey) -> Found {
        let tables = Tables::new(&self.store, &self.pods_at, world);
        let mut selected = Vec::new();
        let shaping = |service: &Service| self.definitions.of(key).find(|first| first.export_to == service.export_to);
        let endpoints = endpoints::gather(self.definitions.of(key).flat_map(|service| {
            let entries: Vec<_> = endpoints::entries_selected_by(service, &self.store).collect();
            selected.extend(entries.iter().map(|(object, _)| (object.key.namespace.clone(), object.key.name.clone())));
            let of = LocalId::new(&service.origin.object.cluster, Kind::Service, &service.namespace, &service.name);
            let all = tables.endpoints(service, self.slices.readers_of(&of).map(|slice| &**slice), &entries);
            if let Some(first) = shaping(service) {
                tables.note_unshaped(first, service, &all);
            }
            all
        }));
        if let Some(first) = self.definitions.of(key).next() {
            tables.note_one_of_several(first, &endpoints);
        }
        Found { endpoints, selected, unused: tables.into_unused() }
    }

    pub(super) fn derive_services(&mut self, world: &mut World, dirty: &mut Dirty) {
        let mut hosts = BTreeSet::new();
        for key in dirty.services.take().into_iter().patiently().visiting(Visited::Service) {
            dirty.recomputed += 1;
            let joined = joining::join(self.definitions.of(&key));
            let (service, eclipsed) = joined.map(|joined| (joined.service, joined.eclipsed)).unzip();
            note(&mut world.eclipsed, &key, eclipsed.unwrap_or_default());
            let new = service.map(|service| self.complete(world, &key, service));
            let old = world.services.get(&key);
            if old.map(|old| &**old) == new.as_ref() {
                continue;
            }
            if !same_shape(old.map(|old| &**old), new.as_ref()) {
                dirty.leading.extend(self.routes.leading_to(&key.hostname).cloned());
                touch_proxies(world, &key, new.as_ref(), dirty);
            }
            dirty.touched.services.insert(key.hostname.clone());
            hosts.insert(key.hostname.clone());
            let is_located = |service: &Service| !own_place_detail(service).is_empty();
            let located = |new: &Service| is_located(new) || new.other_views.iter().any(|view| is_located(view));
            match new.as_ref().is_some_and(located) {
                true => _ = world.located.insert(key.clone()),
                false => _ = world.located.remove(&key),
            }
            match new {
                Some(new) => _ = world.services.insert(key, Arc::new(new)),
                None => _ = world.services.remove(&key),
            }
        }
        for host in hosts.into_iter().patiently() {
            let eclipsed = joining::eclipsed_abroad(world.services_named(&host));
            note(&mut world.eclipsed_abroad, &host, eclipsed);
        }
        let leading = dirty.leading.take();
        let hosts = leading.iter().filter_map(|key| world.routes.get(key)).flat_map(|routes| &routes.hosts);
        dirty.touched.routes.extend(hosts.patiently().visiting(Visited::Written).cloned());
    }

    /// Adds what other objects say about a service: identities of its endpoints, aliases, addresses in other clusters.
    fn complete(&self, world: &World, key: &ServiceKey, mut service: Service) -> Service {
        service.other_views =
            service.other_views.into_iter().map(|view| Arc::new(self.complete(world, key, Arc::unwrap_or_clone(view)))).collect();
        if let Some(endpoints) = world.endpoints.get(key) {
            let all = endpoints.ports.iter().flat_map(|(_, endpoints)| endpoints.iter());
            let mut identities: Vec<&SpiffeId> = all.filter_map(|endpoint| endpoint.backend.identity.as_deref()).collect();
            identities.dedup();
            service.service_accounts.extend(identities.into_iter().cloned());
            service.service_accounts.sort();
            service.service_accounts.dedup();
            // There was one for each endpoint.
            service.service_accounts.shrink_to_fit();
        }
        add_aliases(&mut service.service_accounts, &world.mesh.trust_domain_aliases);
        service.aliases = self.definitions.aliases_of(&key.hostname);
        let elsewhere = self
            .definitions
            .of(key)
            .skip(1)
            .filter(|other| (other.registry, service.registry) == (Registry::Kubernetes, Registry::Kubernetes));
        service.addresses_elsewhere = elsewhere.map(|service| (service.origin.object.cluster.clone(), service.addresses.clone())).collect();
        service
    }
}

/// Adds the names that identities have under the aliases of the trust domain: a certificate of each is taken.
fn add_aliases(identities: &mut Vec<SpiffeId>, trust_domain_aliases: &[SmolStr]) {
    if trust_domain_aliases.is_empty() {
        return;
    }
    let of_alias = |identity: &SpiffeId, trust_domain: &SmolStr| SpiffeId { trust_domain: trust_domain.clone(), ..identity.clone() };
    let named: Vec<SpiffeId> =
        identities.iter().flat_map(|identity| trust_domain_aliases.iter().map(|alias| of_alias(identity, alias))).collect();
    identities.extend(named);
    identities.sort();
    identities.dedup();
}

/// Keeps what has no effect, if anything.
fn note<K: Ord + Clone, T: Clone + PartialEq>(table: &mut OrdMap<K, Arc<[T]>>, key: &K, without_effect: Vec<T>) {
    if table.get(key).map_or(&[][..], |before| before) == without_effect {
        return;
    }
    match without_effect.is_empty() {
        true => _ = table.remove(key),
        false => _ = table.insert(key.clone(), without_effect.into()),
    }
}

/// Returns whether two services are equal but for the identities, which routes do not show.
fn same_shape(old: Option<&Service>, new: Option<&Service>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let old = Service { service_accounts: new.service_accounts.clone(), ..old.clone() };
            old == *new
        }
        (old, new) => old.is_none() && new.is_none(),
    }
}

fn index_addresses(world: &mut World, key: &ServiceKey, old: &EndpointSet, new: &EndpointSet, touched: &mut FxHashSet<IpAddr>) {
    let (old, new) = (listening(old), listening(new));
    // A proxy's target is the port that its endpoint has, so that one which moves to another port counts too.
    touched.extend(missing(&old, &new).chain(missing(&new, &old)).map(|(ip, ..)| *ip));
    let (old, new) = (addresses(&old), addresses(&new));
    let gone = missing(&old, &new).map(|ip| (ip, false));
    let come = missing(&new, &old).map(|ip| (ip, true));
    // An address serves one service as a rule: all of them share this.
    let alone: Arc<[ServiceKey]> = Arc::new([key.clone()]);
    for (ip, is_ours) in gone.chain(come) {
        let others = world.services_at.get(ip).map_or(&[][..], |services| services).iter().filter(|other| *other != key);
        let mut services: Vec<ServiceKey> = others.cloned().collect();
        if is_ours && services.is_empty() {
            world.services_at.insert(*ip, Arc::clone(&alone));
            continue;
        }
        services.extend(is_ours.then(|| key.clone()));
        services.sort();
        if services.is_empty() {
            world.services_at.remove(ip);
        } else {
            world.services_at.insert(*ip, services.into());
        }
    }
}

/// Returns the items of one sorted list that the other one lacks.
fn missing<'a, T: Ord>(from: &'a [T], other: &'a [T]) -> impl Iterator<Item = &'a T> {
    from.iter().filter(|item| other.binary_search(item).is_err())
}

/// Returns where endpoints listen: `(address, service port, endpoint port)`, sorted.
fn listening(set: &EndpointSet) -> Vec<(IpAddr, u16, u16)> {
    let all = set.ports.iter().flat_map(|(port, endpoints)| endpoints.iter().map(move |endpoint| (*port, endpoint)));
    let at = |(port, endpoint): (u16, &Endpoint)| match endpoint.address {
        EndpointAddress::Ip(ip) => Some((ip, port, endpoint.port)),
        _ => None,
    };
    let mut listening: Vec<_> = all.filter_map(at).collect();
    listening.sort_unstable();
    listening
}

fn addresses(listening: &[(IpAddr, u16, u16)]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = listening.iter().map(|(ip, ..)| *ip).collect();
    addresses.dedup();
    addresses
}

/// Marks the proxies behind a service that differs, and those that its selector selects: they may have other targets.
fn touch_proxies(world: &World, key: &ServiceKey, new: Option<&Service>, dirty: &mut Dirty) {
    let endpoints = world.endpoints.get(key).into_iter().flat_map(|set| &set.ports).flat_map(|(_, endpoints)| endpoints.iter());
    dirty.touched.addresses.extend(endpoints.filter_map(|endpoint| match endpoint.address {
        EndpointAddress::Ip(ip) => Some(ip),
        _ => None,
    }));
    let old = world.services.get(key).map(|old| &**old);
    let inbound = |service: &Service| (service.registry, service.ports.clone(), service.selector.clone(), service.precedence.clone());
    let selecting = old.into_iter().chain(new).any(|service| !service.selector.is_empty());
    if selecting && old.map(inbound) != new.map(inbound) {
        dirty.touched.namespaces.insert(key.namespace.clone());
    }
}

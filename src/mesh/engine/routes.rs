//! The table of routes, and which of them depend on which delegates and destinations.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;

use super::{delegations::Delegations, links::Links, store::Store};
use crate::{
    mesh::{
        model::{Hostname, Precedence},
        routing::{
            istio::{self, Defaults},
            model::{GatewayRef, RouteSet},
        },
        world::{NamedKey, Touched, World},
    },
    patience::Patient,
};

/// What routes read besides their own object.
#[derive(Clone, Default)]
pub(super) struct RouteLinks {
    /// Roots and the delegates that they name, whether those exist or not.
    delegates: Links<NamedKey, NamedKey>,
    /// Which of these are given the delegates' routes.
    delegations: Delegations,
    /// VirtualServices and the hosts that they route to.
    destinations: Links<NamedKey, Hostname>,
}

impl RouteLinks {
    /// Returns the VirtualServices that name this one as delegate.
    pub(super) fn roots_of(&self, delegate: &NamedKey) -> Vec<NamedKey> {
        self.delegates.readers_of(delegate).cloned().collect()
    }

    /// Returns the VirtualServices that route to a host.
    pub(super) fn leading_to(&self, host: &Hostname) -> impl Iterator<Item = &NamedKey> {
        self.destinations.readers_of(host)
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.delegates.is_shared_with(&other.delegates)
            && self.delegations.is_shared_with(&other.delegations)
            && self.destinations.is_shared_with(&other.destinations)
    }

    /// Finds out which VirtualServices are given the routes of their delegates, after these differ; returns those for which that
    /// differs now.
    pub(super) fn delegate(&mut self, store: &Store, world: &World, changed: &BTreeSet<NamedKey>) -> Vec<NamedKey> {
        let find = |(namespace, name): &NamedKey| store.config_of(namespace, name).map(|(object, spec)| (object, &**spec));
        let defaults = Defaults { domain: &world.mesh.domain, export_to: &world.mesh.default_virtual_service_export_to };
        let mut concerned = BTreeSet::new();
        for key in changed.iter().patiently() {
            let named = find(key).map(|(object, spec)| (Precedence::of(object), istio::delegations(spec, &key.0, defaults, &find)));
            concerned.extend(self.delegations.set(key, named));
            concerned.insert(key.clone());
        }
        let matches = |delegate: &NamedKey| find(delegate).map_or(0, |(_, leaf)| istio::matches_of_delegate(leaf));
        concerned.iter().flat_map(|delegate| self.delegations.settle(delegate, matches(delegate))).collect()
    }

    /// Derives the routes of one VirtualService.
    pub(super) fn derive(&mut self, store: &Store, world: &mut World, key: &NamedKey, touched: &mut Touched) {
        let find = |(namespace, name): &NamedKey| store.config_of(namespace, name).map(|(object, spec)| (object, &**spec));
        let own = find(key);
        let defaults = Defaults { domain: &world.mesh.domain, export_to: &world.mesh.default_virtual_service_export_to };
        let age = own.map(|(object, _)| Precedence::of(object));
        let is_exhausted = |delegate: &NamedKey| age.as_ref().is_some_and(|age| !self.delegations.gives(delegate, age));
        let new = own.and_then(|(object, spec)| istio::route_set(object, spec, defaults, &find, &is_exhausted)).map(Arc::new);
        self.delegates.set(key, own.map(|(_, spec)| istio::delegates(spec, &key.0)).unwrap_or_default());
        let old = world.routes.get(key).cloned();
        if old == new {
            return;
        }
        self.destinations.set(key, new.as_ref().map(|new| new.destination_hosts()).unwrap_or_default().into_iter().cloned());
        touched.routes.extend(old.iter().chain(&new).flat_map(|routes| routes.hosts.iter().cloned()));
        index(world, key, old.as_ref(), new.as_ref());
        match new {
            Some(new) => _ = world.routes.insert(key.clone(), new),
            None => _ = world.routes.remove(key),
        }
    }
}

fn index(world: &mut World, key: &NamedKey, old: Option<&Arc<RouteSet>>, new: Option<&Arc<RouteSet>>) {
    let for_mesh = |routes: &&Arc<RouteSet>| routes.applies_at(&GatewayRef::Mesh);
    let hosts = |routes: Option<&Arc<RouteSet>>| -> BTreeSet<Hostname> {
        routes.filter(for_mesh).into_iter().flat_map(|routes| routes.hosts.iter().cloned()).collect()
    };
    let gateways = |routes: Option<&Arc<RouteSet>>| -> BTreeSet<GatewayRef> {
        routes.into_iter().flat_map(|routes| routes.gateways.iter().cloned()).filter(|gateway| *gateway != GatewayRef::Mesh).collect()
    };
    let delegates = |routes: Option<&Arc<RouteSet>>| -> BTreeSet<NamedKey> {
        let merged = routes.into_iter().flat_map(|routes| &routes.merged).map(|origin| &origin.object);
        merged.map(|object| (object.namespace.clone(), object.name.clone())).collect()
    };
    relist(&mut world.routes_by_host, key, hosts(old), hosts(new), new);
    relist(&mut world.routes_by_gateway, key, gateways(old), gateways(new), new);
    relist(&mut world.routes_by_delegate, key, delegates(old), delegates(new), new);
}

fn relist<K: Ord + Clone>(
    table: &mut OrdMap<K, Arc<Vec<Arc<RouteSet>>>>,
    key: &NamedKey,
    old: BTreeSet<K>,
    now: BTreeSet<K>,
    new: Option<&Arc<RouteSet>>,
) {
    for at in old.union(&now).patiently() {
        let listed = table.get(at).map(|list| list.as_slice()).unwrap_or_default();
        let mut list: Vec<Arc<RouteSet>> =
            listed.iter().filter(|routes| (&routes.namespace, &routes.name) != (&key.0, &key.1)).cloned().collect();
        list.extend(new.filter(|_| now.contains(at)).cloned());
        list.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        if list.is_empty() {
            table.remove(at);
        } else {
            table.insert(at.clone(), Arc::new(list));
        }
    }
}

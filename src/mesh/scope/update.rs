//! Patches a scope after a change, at the cost of the change.

use std::sync::Arc;

use imbl::OrdMap;

use super::{
    EgressScope, Routes, Scope,
    build::{allows_any, best_service, scope_of, sees_all, visible_routes},
    key::ScopeKey,
};
use crate::{
    mesh::{
        model::{Hostname, ProxyKind},
        policy::destination_rule,
        world::{Touched, World},
    },
    visits::{self, Visit, Visited},
};

impl Scope {
    /// Returns the scope for the new world, equal to one built from nothing. `key` is that which it was built for.
    /// Every value that did not change keeps its `Arc`. A scope that a Sidecar narrows is built again (and held against
    /// the old) when a service or route was touched; any other costs what was touched.
    pub fn update(&self, world: &World, key: &ScopeKey, touched: &Touched) -> Self {
        let sidecar = key.sidecar(world);
        let names_touched = !touched.services.is_empty() || !touched.routes.is_empty();
        if touched.everything || sidecar != self.sidecar || (names_touched && !sees_all(self)) {
            return self.reconciled(scope_of(world, key));
        }
        let mut next = self.clone();
        next.allow_any = allows_any(world, self.sidecar.as_deref());
        for host in touched.services.iter().visiting(Visited::Service) {
            next.patch_service(world, key, host);
        }
        if key.kind == ProxyKind::Sidecar {
            for host in &touched.routes {
                next.patch_routes(world, host);
            }
        }
        next
    }

    fn patch_service(&mut self, world: &World, key: &ScopeKey, host: &Hostname) {
        let service = best_service(world.services_named(host), &self.namespace);
        let rule = service.and_then(|service| destination_rule::effective(world, &self.namespace, &key.rules, service));
        put(&mut self.services, host, service.cloned());
        for egress in &mut self.egress {
            put(&mut egress.services, host, service.cloned());
        }
        put(&mut self.destination_rules, host, rule);
    }

    fn patch_routes(&mut self, world: &World, host: &Hostname) {
        let listed = world.routes_by_host.get(host);
        let seen = listed.and_then(|listed| visible_routes(listed, &self.namespace, |_| true));
        for egress in &mut self.egress {
            put(&mut egress.routes, host, seen.clone());
        }
    }

    /// Returns the fresh scope with every value of this one that is equal.
    fn reconciled(&self, fresh: Self) -> Self {
        let in_listeners = |scope: &Self| scope.egress.iter().map(|egress| egress.services.len()).sum::<usize>();
        let services = |scope: &Self| scope.services.len() + in_listeners(scope);
        visits::count(Visited::Service, services(self) + services(&fresh));
        let routes = |scope: &Self| scope.egress.iter().map(|egress| egress.routes.len()).sum::<usize>();
        visits::count(Visited::Route, routes(self) + routes(&fresh));
        // Listeners mostly show the same routes, which then stay one table.
        let mut before: Option<[Routes; 3]> = None;
        let egress = fresh.egress.into_iter().enumerate().map(|(at, fresh)| {
            let Some(old) = self.egress.get(at) else { return fresh };
            let same = before.take().filter(|[of_old, of_fresh, _]| of_old.ptr_eq(&old.routes) && of_fresh.ptr_eq(&fresh.routes));
            let routes = same.map_or_else(|| kept(&old.routes, &fresh.routes), |[_, _, routes]| routes);
            before = Some([old.routes.clone(), fresh.routes, routes.clone()]);
            EgressScope { listener: fresh.listener, services: kept(&old.services, &fresh.services), routes }
        });
        Self {
            namespace: fresh.namespace,
            sidecar: if fresh.sidecar == self.sidecar { self.sidecar.clone() } else { fresh.sidecar },
            egress: egress.collect(),
            services: kept(&self.services, &fresh.services),
            destination_rules: kept(&self.destination_rules, &fresh.destination_rules),
            allow_any: fresh.allow_any,
        }
    }
}

fn kept<V: PartialEq>(old: &OrdMap<Hostname, Arc<V>>, fresh: &OrdMap<Hostname, Arc<V>>) -> OrdMap<Hostname, Arc<V>> {
    let mut next = old.clone();
    for host in old.keys().filter(|host| !fresh.contains_key(*host)) {
        next.remove(host);
    }
    for (host, value) in fresh {
        put(&mut next, host, Some(Arc::clone(value)));
    }
    next
}

fn put<V: PartialEq>(table: &mut OrdMap<Hostname, Arc<V>>, host: &Hostname, value: Option<Arc<V>>) {
    let Some(value) = value else {
        table.remove(host);
        return;
    };
    let same = table.get(host).is_some_and(|old| Arc::ptr_eq(old, &value) || *old == value);
    if !same {
        table.insert(host.clone(), value);
    }
}

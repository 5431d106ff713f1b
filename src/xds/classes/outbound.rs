//! Groups that proxies of one scope share: clusters and routes, endpoints, outbound listeners.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;

use super::{key::ListenersKey, translator::Translator, units::Units};
use crate::{
    mesh::{
        model::{Hostname, ProxyKind, Resolution, Service},
        policy::mtls::service_mtls,
        scope::Scope,
        world::{Touched, World},
    },
    translate::{
        cluster, endpoint,
        input::ProxyClass,
        listener::outbound::{self, Group},
        route,
    },
    xds::{resource::Resource, view::Layer},
};

/// Clusters and route tables.
#[derive(Debug, Default)]
pub(super) struct Shared {
    clusters: Units<ClusterOwner>,
    routes: Units<SmolStr>,
}

/// Load assignments.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    assignments: Units<Hostname>,
}

/// Outbound listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: Units<Group>,
}

/// From one world to the next, as one scope shows it.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) world: &'a World,
    /// The scope before.
    pub(super) old: &'a Scope,
    /// The scope now.
    pub(super) new: &'a Scope,
    pub(super) touched: &'a Touched,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ClusterOwner {
    /// Black hole and passthrough.
    Fixed,
    Service(Hostname),
}

impl Shared {
    pub(super) fn new(world: &World, scope: &Scope, class: &ProxyClass, translator: &mut Translator) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, class, translator);
        group
    }

    pub(super) fn clusters(&self) -> Layer {
        Arc::clone(self.clusters.layer())
    }

    pub(super) fn routes(&self) -> Layer {
        Arc::clone(self.routes.layer())
    }

    pub(super) fn update(&mut self, step: Step<'_>, class: &ProxyClass, translator: &mut Translator) {
        let Step { world, new, touched, .. } = step;
        if step.is_rescoped() {
            return self.translate_everything(world, new, class, translator);
        }
        for host in &touched.services {
            self.translate_clusters(world, new, class, host, translator);
        }
        // Clusters of DNS services hold their endpoints.
        let by_dns = |host: &&Hostname| new.services.get(*host).is_some_and(|service| holds_endpoints(service));
        for host in touched.endpoints.iter().filter(by_dns) {
            self.translate_clusters(world, new, class, host, translator);
        }
        if class.kind == ProxyKind::Sidecar {
            let mut tables = BTreeSet::new();
            for host in touched.services.iter().chain(&touched.routes) {
                tables.extend(route::tables_with(step.old, &world.mesh, host));
                tables.extend(route::tables_with(new, &world.mesh, host));
            }
            for table in tables {
                self.translate_table(world, new, class, &table, translator);
            }
        }
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, class: &ProxyClass, translator: &mut Translator) {
        self.clusters.retain(|owner| match owner {
            ClusterOwner::Fixed => true,
            ClusterOwner::Service(host) => scope.services.contains_key(host),
        });
        let fixed = cluster::fixed_inputs(class, &world.mesh).into_iter().map(|input| translator.cluster(input)).collect();
        self.clusters.replace(&ClusterOwner::Fixed, fixed);
        for host in scope.services.keys() {
            self.translate_clusters(world, scope, class, host, translator);
        }
        if class.kind == ProxyKind::Sidecar {
            let tables = route::tables(scope, &world.mesh);
            self.routes.retain(|name| tables.contains(name));
            for name in &tables {
                self.translate_table(world, scope, class, name, translator);
            }
        }
    }

    fn translate_clusters(&mut self, world: &World, scope: &Scope, class: &ProxyClass, host: &Hostname, translator: &mut Translator) {
        let resources = scope.services.get(host).map_or_else(Vec::new, |service| {
            let rule = scope.destination_rules.get(host);
            let mtls = Some(service_mtls(world, &service.namespace));
            let inputs = cluster::inputs(class, &world.mesh, service, rule, mtls, world.endpoints.get(&service.key()));
            inputs.into_iter().map(|input| translator.cluster(input)).collect()
        });
        self.clusters.replace(&ClusterOwner::Service(host.clone()), resources);
    }

    fn translate_table(&mut self, world: &World, scope: &Scope, class: &ProxyClass, name: &SmolStr, translator: &mut Translator) {
        let table = route::table(scope, class, &class.labels, &world.mesh, name);
        self.routes.replace(name, table.into_iter().map(|table| translator.table(table)).collect());
    }
}

impl Endpoints {
    pub(super) fn new(world: &World, scope: &Scope, class: &ProxyClass, translator: &mut Translator) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, class, translator);
        group
    }

    pub(super) fn assignments(&self) -> Layer {
        Arc::clone(self.assignments.layer())
    }

    pub(super) fn update(&mut self, step: Step<'_>, class: &ProxyClass, translator: &mut Translator) {
        let Step { world, new, touched, .. } = step;
        if step.is_rescoped() {
            return self.translate_everything(world, new, class, translator);
        }
        for host in touched.services.iter().chain(&touched.endpoints) {
            self.translate(world, new, class, host, translator);
        }
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, class: &ProxyClass, translator: &mut Translator) {
        self.assignments.retain(|host| scope.services.contains_key(host));
        for host in scope.services.keys() {
            self.translate(world, scope, class, host, translator);
        }
    }

    fn translate(&mut self, world: &World, scope: &Scope, class: &ProxyClass, host: &Hostname, translator: &mut Translator) {
        let resources = scope.services.get(host).map_or_else(Vec::new, |service| {
            let rule = scope.destination_rules.get(host);
            let inputs = endpoint::inputs(class, service, rule, world.endpoints.get(&service.key()), false);
            inputs.into_iter().map(|input| translator.assignment(input)).collect()
        });
        self.assignments.replace(host, resources);
    }
}

impl Listeners {
    pub(super) fn new(world: &World, scope: &Scope, key: &ListenersKey, translator: &mut Translator) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, key, translator);
        group
    }

    pub(super) fn listeners(&self) -> Layer {
        Arc::clone(self.listeners.layer())
    }

    pub(super) fn update(&mut self, step: Step<'_>, key: &ListenersKey, translator: &mut Translator) {
        let Step { world, old, new, touched } = step;
        if step.is_rescoped() {
            return self.translate_everything(world, new, key, translator);
        }
        let mut ports: BTreeSet<u16> = BTreeSet::new();
        for host in touched.services.iter().chain(&touched.routes) {
            ports.extend(ports_of(old, host));
            ports.extend(ports_of(new, host));
        }
        // Headless services have a listener for each endpoint.
        for host in &touched.endpoints {
            if new.services.get(host).is_some_and(|service| service.resolution == Resolution::Passthrough) {
                ports.extend(ports_of(new, host));
            }
        }
        for port in ports {
            self.translate(world, new, key, Group::Port(port), translator);
        }
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, key: &ListenersKey, translator: &mut Translator) {
        let planned = outbound::all_inputs(scope, &key.class, &world.mesh, &world.endpoints, &key.own);
        let groups: BTreeSet<Group> = planned.keys().copied().collect();
        self.listeners.retain(|group| groups.contains(group));
        for (group, inputs) in planned {
            let resources = inputs.into_iter().map(|input| translator.outbound_listener(input)).collect();
            self.listeners.replace(&group, resources);
        }
    }

    fn translate(&mut self, world: &World, scope: &Scope, key: &ListenersKey, group: Group, translator: &mut Translator) {
        let inputs = outbound::inputs(scope, &key.class, &world.mesh, &world.endpoints, &key.own, group);
        let resources: Vec<Arc<Resource>> = inputs.into_iter().map(|input| translator.outbound_listener(input)).collect();
        self.listeners.replace(&group, resources);
    }
}

impl Step<'_> {
    /// Whether more than the touched hosts may look different.
    fn is_rescoped(&self) -> bool {
        self.touched.everything || self.old.sidecar != self.new.sidecar || self.old.allow_any != self.new.allow_any
    }
}

fn holds_endpoints(service: &Service) -> bool {
    matches!(service.resolution, Resolution::DnsLb | Resolution::DnsRoundRobin)
}

fn ports_of(scope: &Scope, host: &Hostname) -> impl Iterator<Item = u16> {
    scope.services.get(host).into_iter().flat_map(|service| &service.ports).map(|port| port.number)
}

//! What proxies of one scope share: clusters, endpoints and routes, and outbound listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use smol_str::SmolStr;

use super::{
    cached_units::CachedUnits,
    key::{ListenersKey, SharedKey, is_located},
    missing::MissingClusters,
    patching::Patching,
    resource_cache::ResourceCache,
};
use crate::{
    api::{ConfigId, Diagnostic, ObjectKey},
    mesh::{
        credential::SecretName,
        model::{HostIndex, Hostname, ProxyKind, Resolution, Service},
        policy::mtls::service_mtls,
        scope::Scope,
        validate::unused_imports,
        world::{Touched, World},
    },
    translate::{
        cluster, endpoint,
        input::ProxyClass,
        listener::{
            Refused,
            outbound::{self, Group, Planned},
        },
        route::{self, LostDomain},
    },
    visits::{self, Visit, Visited},
    xds::{
        encode::{checked, patch_report::PatchReport},
        resource_type::ResourceType,
        view::Layer,
    },
};

/// Clusters, endpoints and route tables.
#[derive(Debug, Default)]
pub(super) struct SharedByScope {
    clusters: CachedUnits<ClusterOwner>,
    assignments: CachedUnits<Hostname>,
    routes: CachedUnits<SmolStr>,
    /// Clusters that appeared or vanished with the last change.
    renamed: BTreeSet<SmolStr>,
    missing: MissingClusters,
    /// Domains that objects do not get, by route table.
    lost: BTreeMap<SmolStr, Vec<Diagnostic>>,
    /// What the Sidecar of the scope imports in vain.
    unused: Vec<Diagnostic>,
    /// The secrets that clusters ask for, with the DestinationRules that name them. Hosts without any are not listed.
    secrets: BTreeMap<Hostname, Vec<(ObjectKey, SecretName)>>,
}

/// Outbound listeners.
#[derive(Debug, Default)]
pub(super) struct OutboundListeners {
    listeners: CachedUnits<Group>,
    /// Groups without findings are not listed.
    refused: BTreeMap<Group, BTreeSet<Refused>>,
    missing: MissingClusters,
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

impl SharedByScope {
    pub(super) fn new(world: &World, scope: &Scope, key: &SharedKey, cache: &mut ResourceCache) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, key, cache);
        group.check(world, scope, &key.class, true);
        group
    }

    /// Returns the clusters.
    pub(super) fn clusters(&self) -> &Layer {
        self.clusters.layer()
    }

    /// Returns the names of the clusters that appeared or vanished with the last change.
    pub(super) fn renamed(&self) -> &BTreeSet<SmolStr> {
        &self.renamed
    }

    /// Returns the clusters that Envoy would refuse.
    pub(super) fn left_out(&self) -> BTreeSet<&SmolStr> {
        self.clusters.clusters_left_out()
    }

    /// Returns what of the objects these proxies cannot be given.
    pub(super) fn findings(&self, world: &World, scope: &Scope) -> Vec<Diagnostic> {
        let mut found = self.missing.findings(world, scope, self.routes.layer(), &self.left_out());
        found.extend(self.lost.values().flatten().chain(&self.unused).cloned());
        found.extend(self.clusters.findings().chain(self.assignments.findings()).chain(self.routes.findings()));
        found
    }

    /// Returns what came of patches.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PatchReport> {
        self.clusters.reports().chain(self.routes.reports())
    }

    /// Returns the secrets that clusters ask for, with the DestinationRules that name them.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &(ObjectKey, SecretName)> {
        self.secrets.values().flatten()
    }

    /// Returns the resources of one type; `None` for those that it has none of. Listeners depend on more than the
    /// scope ([`OutboundListeners`]).
    pub(super) fn layer(&self, kind: ResourceType) -> Option<&Layer> {
        match kind {
            ResourceType::Cluster => Some(self.clusters.layer()),
            ResourceType::Endpoint => Some(self.assignments.layer()),
            ResourceType::Route => Some(self.routes.layer()),
            ResourceType::Listener
            | ResourceType::Secret
            | ResourceType::ExtensionConfig
            | ResourceType::NameTable
            | ResourceType::ProxyConfig => None,
        }
    }

    /// Brings the resources up to a new world.
    pub(super) fn update(&mut self, step: Step<'_>, key: &SharedKey, cache: &mut ResourceCache) {
        let Step { world, new, touched, .. } = step;
        if step.is_rescoped() {
            self.translate_everything(world, new, key, cache);
        } else {
            self.translate_touched(step, key, cache);
        }
        let reimported = step.is_rescoped() || !touched.services.is_empty() || !touched.routes.is_empty();
        self.check(world, new, &key.class, reimported);
    }

    /// Finds what cannot be given as it is asked for, where that may have changed.
    fn check(&mut self, world: &World, scope: &Scope, class: &ProxyClass, reimported: bool) {
        self.renamed = self.clusters.take_changes().named;
        self.assignments.take_changes();
        let changes = self.routes.take_changes();
        self.missing.update(self.routes.layer(), &changes, self.clusters.layer(), &self.renamed);
        if reimported && class.kind == ProxyKind::Sidecar {
            self.unused = unused_imports(world, scope);
        }
    }

    fn translate_touched(&mut self, step: Step<'_>, key: &SharedKey, cache: &mut ResourceCache) {
        let Step { world, new, touched, .. } = step;
        let class = &key.class;
        let services = step.services();
        for host in &services {
            self.translate_clusters(world, new, key, host, cache);
        }
        for host in services.iter().copied().chain(&touched.endpoints) {
            self.translate_endpoints(world, new, class, host, cache);
        }
        // Clusters of DNS services hold their endpoints.
        let by_dns = |host: &&Hostname| new.services.get(*host).is_some_and(|service| holds_endpoints(service));
        for host in touched.endpoints.iter().filter(by_dns) {
            self.translate_clusters(world, new, key, host, cache);
        }
        if class.kind == ProxyKind::Sidecar {
            let hosts: BTreeSet<&Hostname> = touched.services.iter().chain(&touched.routes).collect();
            let now = route::tables_with(new, class, &world.mesh, &hosts);
            let before = route::tables_with(step.old, class, &world.mesh, &hosts);
            for table in &now {
                self.translate_table(world, new, key, table, cache);
            }
            let others: BTreeSet<SmolStr> = before.difference(&now).cloned().collect();
            let stay = route::existing_tables(new, class, &world.mesh, &others);
            for table in &others {
                if stay.contains(table) {
                    self.translate_table(world, new, key, table, cache);
                } else {
                    self.routes.replace(table, Vec::new());
                    self.lost.remove(table);
                }
            }
        }
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, key: &SharedKey, cache: &mut ResourceCache) {
        let class = &key.class;
        self.clusters.retain(|owner| match owner {
            ClusterOwner::Fixed => true,
            ClusterOwner::Service(host) => scope.services.contains_key(host),
        });
        self.secrets.retain(|host, _| scope.services.contains_key(host));
        let fixed = cluster::fixed_inputs(class, &world.mesh).into_iter().map(|input| cache.cluster(input, &key.patching)).collect();
        self.clusters.replace(&ClusterOwner::Fixed, fixed);
        for host in scope.services.keys() {
            self.translate_clusters(world, scope, key, host, cache);
        }
        self.assignments.retain(|host| scope.services.contains_key(host));
        for host in scope.services.keys() {
            self.translate_endpoints(world, scope, class, host, cache);
        }
        if class.kind == ProxyKind::Sidecar {
            let tables = route::tables(scope, class, &world.mesh);
            self.routes.retain(|name| tables.contains(name));
            self.lost.retain(|name, _| tables.contains(name));
            for name in &tables {
                self.translate_table(world, scope, key, name, cache);
            }
        }
    }

    fn translate_clusters(&mut self, world: &World, scope: &Scope, key: &SharedKey, host: &Hostname, cache: &mut ResourceCache) {
        let class = &key.class;
        visits::count(Visited::Service, 1);
        let resources = scope.services.get(host).map_or_else(Vec::new, |service| {
            let rule = scope.destination_rules.get(host);
            let mtls = Some(service_mtls(world, &service.namespace));
            let inputs = cluster::inputs(class, &world.mesh, None, service, rule, mtls, world.endpoints.get(&service.key()));
            inputs.into_iter().map(|input| cache.cluster(input, &key.patching)).collect()
        });
        self.clusters.replace(&ClusterOwner::Service(host.clone()), resources);
        let secrets = secrets_of(world, scope, class, host);
        match secrets.is_empty() {
            true => _ = self.secrets.remove(host),
            false => _ = self.secrets.insert(host.clone(), secrets),
        }
    }

    fn translate_endpoints(&mut self, world: &World, scope: &Scope, class: &ProxyClass, host: &Hostname, cache: &mut ResourceCache) {
        visits::count(Visited::Service, 1);
        // Where it counts where clients are, not all of the scope have the same.
        let service = scope.services.get(host).filter(|service| !is_located(world, scope, service));
        let resources = service.map_or_else(Vec::new, |service| {
            let rule = scope.destination_rules.get(host);
            let inputs = endpoint::inputs(class, &world.mesh, None, service, rule, world.endpoints.get(&service.key()), false);
            inputs.into_iter().map(|input| cache.assignment(input)).collect()
        });
        self.assignments.replace(host, resources);
    }

    fn translate_table(&mut self, world: &World, scope: &Scope, key: &SharedKey, name: &SmolStr, cache: &mut ResourceCache) {
        let mut table = route::table(scope, &key.class, &world.mesh, name);
        let lost = table.as_mut().map(|table| std::mem::take(&mut table.lost)).unwrap_or_default();
        if lost.is_empty() {
            self.lost.remove(name);
        } else {
            let told = |lost: &LostDomain| Diagnostic::warning("", lost.to_string()).of(&lost.object.object);
            self.lost.insert(name.clone(), lost.iter().map(told).collect());
        }
        let before = self.routes.layer().get(name);
        let made = table.map(|table| cache.table(table, &key.patching)).map(|made| match before {
            Some(before) if !made.unfit.is_empty() => checked::keeping_virtual_hosts(made, before),
            _ => made,
        });
        self.routes.replace(name, made.into_iter().collect());
    }
}

impl OutboundListeners {
    pub(super) fn new(world: &World, scope: &Scope, key: &ListenersKey, shared: &SharedByScope, cache: &mut ResourceCache) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, key, cache);
        group.check(shared);
        group
    }

    /// Returns the destinations of TLS and TCP routes that these proxies have no cluster for, and what Envoy would refuse.
    pub(super) fn findings(&self, world: &World, scope: &Scope, left_out: &BTreeSet<&SmolStr>) -> Vec<Diagnostic> {
        let mut found = self.missing.findings(world, scope, self.layer(), left_out);
        found.extend(self.listeners.findings());
        found
    }

    fn check(&mut self, shared: &SharedByScope) {
        let changes = self.listeners.take_changes();
        self.missing.update(self.listeners.layer(), &changes, shared.clusters(), shared.renamed());
    }

    /// Returns what came of patches.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PatchReport> {
        self.listeners.reports()
    }

    /// Returns the listeners.
    pub(super) fn layer(&self) -> &Layer {
        self.listeners.layer()
    }

    /// Brings the listeners up to a new world, in which the clusters are up to date already.
    pub(super) fn update(&mut self, step: Step<'_>, key: &ListenersKey, shared: &SharedByScope, cache: &mut ResourceCache) {
        if step.is_rescoped() {
            self.translate_everything(step.world, step.new, key, cache);
        } else {
            self.translate_touched(step, key, cache);
        }
        self.check(shared);
    }

    fn translate_touched(&mut self, step: Step<'_>, key: &ListenersKey, cache: &mut ResourceCache) {
        let Step { world, old, new, touched } = step;
        let mut ports: BTreeSet<u16> = BTreeSet::new();
        for scope in [old, new] {
            ports.extend(touched.services.iter().flat_map(|host| ports_of(scope, host)));
            ports.extend(routed_by(scope, &touched.routes).flat_map(|host| ports_of(scope, host)));
        }
        // A Unix socket of a Sidecar has services of every port.
        if !ports.is_empty() && [old, new].into_iter().any(has_sockets) {
            ports.insert(0);
        }
        // Headless services have a listener for each endpoint.
        for host in &touched.endpoints {
            if services_of(new, host).any(|service| service.resolution == Resolution::Passthrough) {
                ports.extend(ports_of(new, host));
            }
        }
        for port in ports {
            self.translate(world, new, key, Group::Port(port), cache);
        }
    }

    /// Returns what of the objects has no place in the listeners.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.refused.values().flatten()
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, key: &ListenersKey, cache: &mut ResourceCache) {
        let planned = outbound::all_planned(key.view(world, scope));
        self.listeners.retain(|group| planned.contains_key(group));
        self.refused.retain(|group, _| planned.contains_key(group));
        for (group, planned) in planned {
            self.replace(group, planned, &key.patching, cache);
        }
    }

    fn translate(&mut self, world: &World, scope: &Scope, key: &ListenersKey, group: Group, cache: &mut ResourceCache) {
        self.replace(group, outbound::planned(key.view(world, scope), group), &key.patching, cache);
    }

    fn replace(&mut self, group: Group, planned: Planned, patching: &Patching, cache: &mut ResourceCache) {
        let made = planned.listeners.into_iter().map(|input| cache.outbound_listener(input, patching)).collect();
        self.listeners.replace(&group, made);
        match planned.refused.is_empty() {
            true => drop(self.refused.remove(&group)),
            false => drop(self.refused.insert(group, planned.refused)),
        }
    }
}

impl<'a> Step<'a> {
    /// Returns the hosts whose services may look different: those that were touched, and those that a route brought into the
    /// sight of a Sidecar or took out of it, as it imports where imported routes lead.
    pub(super) fn services(&self) -> BTreeSet<&'a Hostname> {
        let mut hosts: BTreeSet<&Hostname> = self.touched.services.iter().collect();
        if !self.touched.routes.is_empty() {
            hosts.extend(differing(&self.old.services, &self.new.services));
        }
        hosts
    }

    /// Returns whether more than the touched hosts may look different.
    pub(super) fn is_rescoped(&self) -> bool {
        self.touched.everything || self.old.sidecar != self.new.sidecar || self.old.allow_any != self.new.allow_any
    }
}

/// Returns the hosts for which two tables differ, at the cost of the difference.
pub(super) fn differing<'a, V: PartialEq>(
    old: &'a OrdMap<Hostname, Arc<V>>,
    new: &'a OrdMap<Hostname, Arc<V>>,
) -> impl Iterator<Item = &'a Hostname> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(host, _) | DiffItem::Update { new: (host, _), .. } | DiffItem::Remove(host, _) => host,
    })
}

/// Returns the hosts of the services whose listeners may follow routes for some of `hosts`: where either is a wildcard, of others too.
fn routed_by<'a>(scope: &'a Scope, hosts: &'a BTreeSet<Hostname>) -> impl Iterator<Item = &'a Hostname> {
    let names = hosts.iter().filter(|host| !host.is_wildcard());
    let named = names.flat_map(|host| host.covering(&scope.services)).map(|(of, _)| of).visiting(Visited::Service);
    let wildcards: HostIndex = hosts.iter().filter(|host| host.is_wildcard()).map(Hostname::as_str).collect();
    let all = (!wildcards.is_empty()).then(|| scope.services.keys().visiting(Visited::Service)).into_iter().flatten();
    named.chain(all.filter(move |of| wildcards.overlapping(of.as_str()).is_some()))
}

/// Returns the secrets that the clusters of a host ask for, with the DestinationRules that name them.
fn secrets_of(world: &World, scope: &Scope, class: &ProxyClass, host: &Hostname) -> Vec<(ObjectKey, SecretName)> {
    // Mostly there are none.
    if world.secret_users.is_empty() {
        return Vec::new();
    }
    let (Some(service), Some(rule)) = (scope.services.get(host), scope.destination_rules.get(host)) else { return Vec::new() };
    let names: BTreeSet<&SecretName> = rule.secrets(service.ports.iter().map(|port| port.number), class.kind).collect();
    let named = names.into_iter().flat_map(|name| {
        let users = world.secret_users.get(name);
        let by = rule.origins.iter().map(|origin| &origin.object);
        let by = by.filter(move |key| users.is_some_and(|users| users.contains(&ConfigId::new(key.kind, &key.namespace, &key.name))));
        by.map(move |key| (key.clone(), name.clone()))
    });
    named.collect()
}

fn has_sockets(scope: &Scope) -> bool {
    scope.egress.iter().any(|egress| egress.listener.as_ref().is_some_and(|listener| listener.port == Some(0)))
}

/// Returns whether clusters of the service hold its endpoints.
pub(super) fn holds_endpoints(service: &Service) -> bool {
    matches!(service.resolution, Resolution::DnsLb | Resolution::DnsRoundRobin)
}

fn ports_of<'a>(scope: &'a Scope, host: &'a Hostname) -> impl Iterator<Item = u16> + 'a {
    services_of(scope, host).flat_map(|service| &service.ports).map(|port| port.number)
}

/// Returns what a host is: the egress listeners of a Sidecar may each show it as another namespace defines it.
fn services_of<'a>(scope: &'a Scope, host: &'a Hostname) -> impl Iterator<Item = &'a Arc<Service>> {
    scope.services.get(host).into_iter().chain(scope.egress.iter().filter_map(move |egress| egress.services.get(host)))
}

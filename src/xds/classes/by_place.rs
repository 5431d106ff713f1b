//! What proxies of one scope and one place share: the endpoints of services that are chosen by where the client is, and the
//! clusters that hold such endpoints themselves.

use std::sync::Arc;

use imbl::OrdMap;

use super::{
    by_scope::{SharedByScope, Step, holds_endpoints},
    cached_units::CachedUnits,
    key::{LocatedKey, is_located},
    resource_cache::ResourceCache,
};
use crate::{
    api::Diagnostic,
    mesh::{model::Hostname, policy::mtls::service_mtls, scope::Scope, world::World},
    translate::{cluster, endpoint},
    visits::{self, Visit, Visited},
    xds::{encode::patch_report::PatchReport, view::Layer},
};

/// Load assignments and clusters of such services. All others are [`SharedByScope`]'s.
#[derive(Debug, Default)]
pub(super) struct LocatedResources {
    assignments: CachedUnits<Hostname>,
    clusters: CachedUnits<Hostname>,
    laid: Option<LaidOver>,
}

/// Clusters laid over those of the scope that have the same names.
#[derive(Debug)]
struct LaidOver {
    scope: Layer,
    own: Layer,
    all: Layer,
}

impl LocatedResources {
    pub(super) fn new(world: &World, scope: &Scope, key: &LocatedKey, shared: &SharedByScope, cache: &mut ResourceCache) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, key, cache);
        group.lay_over(shared);
        group
    }

    /// Returns the load assignments.
    pub(super) fn assignments(&self) -> &Layer {
        self.assignments.layer()
    }

    /// Returns all clusters, those of the scope included; `None`: none differs from these.
    pub(super) fn clusters(&self) -> Option<&Layer> {
        self.laid.as_ref().map(|laid| &laid.all)
    }

    /// Returns what Envoy would refuse of the objects.
    pub(super) fn findings(&self) -> impl Iterator<Item = Diagnostic> {
        self.assignments.findings().chain(self.clusters.findings())
    }

    /// Returns what came of patches.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PatchReport> {
        self.clusters.reports()
    }

    /// Brings the resources up to a new world, in which those of the scope are up to date already.
    pub(super) fn update(&mut self, step: Step<'_>, key: &LocatedKey, shared: &SharedByScope, cache: &mut ResourceCache) {
        if step.is_rescoped() {
            self.translate_everything(step.world, step.new, key, cache);
        } else {
            for host in step.services().into_iter().chain(&step.touched.endpoints) {
                self.translate(step.world, step.new, key, host, cache);
            }
        }
        self.lay_over(shared);
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, key: &LocatedKey, cache: &mut ResourceCache) {
        let is_there = |host: &Hostname| scope.services.contains_key(host);
        self.assignments.retain(is_there);
        self.clusters.retain(is_there);
        for host in scope.services.keys() {
            self.translate(world, scope, key, host, cache);
        }
    }

    fn translate(&mut self, world: &World, scope: &Scope, key: &LocatedKey, host: &Hostname, cache: &mut ResourceCache) {
        visits::count(Visited::Service, 1);
        let (class, place) = (&key.shared.class, Some(&key.place));
        let service = scope.services.get(host).filter(|service| is_located(world, scope, service));
        let assignments = service.map_or_else(Vec::new, |service| {
            let (rule, endpoints) = (scope.destination_rules.get(host), world.endpoints.get(&service.key()));
            let inputs = endpoint::inputs(class, &world.mesh, place, service, rule, endpoints, false);
            inputs.into_iter().map(|input| cache.assignment(input)).collect()
        });
        self.assignments.replace(host, assignments);
        let clusters = service.filter(|service| holds_endpoints(service)).map_or_else(Vec::new, |service| {
            let (rule, endpoints) = (scope.destination_rules.get(host), world.endpoints.get(&service.key()));
            let mtls = Some(service_mtls(world, &service.namespace));
            let inputs = cluster::inputs(class, &world.mesh, place, service, rule, mtls, endpoints);
            inputs.into_iter().map(|input| cache.cluster(input, &key.shared.patching)).collect()
        });
        self.clusters.replace(host, clusters);
        // Nobody asks what changed here.
        self.assignments.take_changes();
        self.clusters.take_changes();
    }

    // What did not change stays the same pointer, by which views are compared.
    fn lay_over(&mut self, shared: &SharedByScope) {
        let (scope, own) = (shared.clusters(), self.clusters.layer());
        if own.is_empty() {
            self.laid = None;
            return;
        }
        let is_same = |laid: &LaidOver| Arc::ptr_eq(&laid.scope, scope) && Arc::ptr_eq(&laid.own, own);
        if !self.laid.as_ref().is_some_and(is_same) {
            let mut all = OrdMap::clone(scope);
            all.extend(own.iter().visiting(Visited::Service).map(|(name, cluster)| (name.clone(), Arc::clone(cluster))));
            self.laid = Some(LaidOver { scope: Arc::clone(scope), own: Arc::clone(own), all: Arc::new(all) });
        }
    }
}

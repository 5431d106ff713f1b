//! What proxies of one scope and one place share: the endpoints of services that are chosen by where the client is.

use std::collections::BTreeSet;

use super::{by_scope::Step, cached_units::CachedUnits, key::LocatedKey, resource_cache::ResourceCache};
use crate::{
    api::Diagnostic,
    mesh::{model::Hostname, scope::Scope, world::World},
    translate::endpoint,
    visits::{self, Visited},
    xds::view::Layer,
};

/// Load assignments of such services. All others are [`super::by_scope::SharedByScope`]'s.
#[derive(Debug, Default)]
pub(super) struct LocatedAssignments {
    assignments: CachedUnits<Hostname>,
}

impl LocatedAssignments {
    pub(super) fn new(world: &World, scope: &Scope, key: &LocatedKey, cache: &mut ResourceCache) -> Self {
        let mut group = Self::default();
        group.translate_everything(world, scope, key, cache);
        group
    }

    /// Returns the load assignments.
    pub(super) fn layer(&self) -> &Layer {
        self.assignments.layer()
    }

    /// Returns what Envoy would refuse of the objects.
    pub(super) fn findings(&self) -> impl Iterator<Item = Diagnostic> {
        self.assignments.findings()
    }

    /// Brings the load assignments up to a new world.
    pub(super) fn update(&mut self, step: Step<'_>, key: &LocatedKey, cache: &mut ResourceCache) {
        if step.is_rescoped() {
            return self.translate_everything(step.world, step.new, key, cache);
        }
        for host in step.services().into_iter().chain(&step.touched.endpoints) {
            self.translate(step.world, step.new, key, host, cache);
        }
    }

    fn translate_everything(&mut self, world: &World, scope: &Scope, key: &LocatedKey, cache: &mut ResourceCache) {
        let located: BTreeSet<&Hostname> = world.located.iter().map(|key| &key.hostname).collect();
        self.assignments.retain(|host| located.contains(host));
        for host in located {
            self.translate(world, scope, key, host, cache);
        }
    }

    fn translate(&mut self, world: &World, scope: &Scope, key: &LocatedKey, host: &Hostname, cache: &mut ResourceCache) {
        visits::count(Visited::Service, 1);
        let service = scope.services.get(host).filter(|service| service.place_detail().is_some());
        let resources = service.map_or_else(Vec::new, |service| {
            let (rule, endpoints) = (scope.destination_rules.get(host), world.endpoints.get(&service.key()));
            let inputs = endpoint::inputs(&key.shared.class, &world.mesh, Some(&key.place), service, rule, endpoints, false);
            inputs.into_iter().map(|input| cache.assignment(input)).collect()
        });
        self.assignments.replace(host, resources);
        // Nobody asks what changed here.
        self.assignments.take_changes();
    }
}

//! A layer that is put together from units: each owner (a service, a port, a route table) contributes some resources,
//! and its contribution is replaced without regard to the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use smol_str::SmolStr;

use crate::xds::{resource::Resource, view::Layer};

/// A layer and who contributed what to it.
#[derive(Debug)]
pub(super) struct CachedUnits<O> {
    owners: BTreeMap<O, Vec<SmolStr>>,
    layer: Layer,
    changes: Changes,
}

/// Names of the resources that differ since they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Made or made again, and still there.
    pub(super) made: BTreeSet<SmolStr>,
    /// Appeared or vanished.
    pub(super) named: BTreeSet<SmolStr>,
}

impl<O> Default for CachedUnits<O> {
    fn default() -> Self {
        Self { owners: BTreeMap::new(), layer: Arc::new(OrdMap::new()), changes: Changes::default() }
    }
}

impl<O: Ord + Clone> CachedUnits<O> {
    /// Returns the layer as it stands: the same `Arc` as before when nothing changed.
    pub(super) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Replaces what `owner` contributes. A resource that equals the one before is not touched.
    pub(super) fn replace(&mut self, owner: &O, resources: Vec<Arc<Resource>>) {
        let before = self.owners.remove(owner).unwrap_or_default();
        let gone: Vec<SmolStr> = before.into_iter().filter(|name| resources.iter().all(|resource| resource.name != *name)).collect();
        for name in &gone {
            Arc::make_mut(&mut self.layer).remove(name);
            self.changes.made.remove(name);
            self.changes.named.insert(name.clone());
        }
        for resource in &resources {
            let known = self.layer.get(&resource.name);
            if known.is_none_or(|known| known != resource) {
                if known.is_none() {
                    self.changes.named.insert(resource.name.clone());
                }
                self.changes.made.insert(resource.name.clone());
                Arc::make_mut(&mut self.layer).insert(resource.name.clone(), Arc::clone(resource));
            }
        }
        if !resources.is_empty() {
            self.owners.insert(owner.clone(), resources.iter().map(|resource| resource.name.clone()).collect());
        }
    }

    /// Returns what changed since this was last asked.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Lets go of all owners that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&O) -> bool) {
        let gone: Vec<O> = self.owners.keys().filter(|owner| !keep(owner)).cloned().collect();
        for owner in gone {
            self.replace(&owner, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{resource::ContentHash, resource_type::ResourceType};

    fn resource(name: &str, version: u64) -> Arc<Resource> {
        Arc::new(Resource {
            kind: ResourceType::Cluster,
            name: name.into(),
            version: ContentHash(version),
            body: Default::default(),
            references: Arc::default(),
            origins: Arc::new([]),
            virtual_hosts: Arc::default(),
        })
    }

    #[test]
    fn an_owner_replaces_only_its_own() {
        let mut units = CachedUnits::default();
        units.replace(&"a", vec![resource("a1", 1), resource("a2", 1)]);
        units.replace(&"b", vec![resource("b1", 1)]);
        units.replace(&"a", vec![resource("a2", 2)]);
        let names: Vec<_> = units.layer().iter().map(|(name, resource)| (name.as_str(), resource.version.0)).collect();
        assert_eq!(names, [("a2", 2), ("b1", 1)]);
    }

    #[test]
    fn nothing_changed_is_the_same_layer() {
        let mut units = CachedUnits::default();
        units.replace(&1, vec![resource("x", 1)]);
        let before = Arc::clone(units.layer());
        units.replace(&1, vec![resource("x", 1)]);
        assert!(Arc::ptr_eq(&before, units.layer()));
        units.retain(|_| false);
        assert!(units.layer().is_empty());
    }
}

//! Clusters that route tables and listeners of a group name, and that its proxies are not sent: requests for them get 503.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::cached_units::Changes;
use crate::{
    api::Diagnostic,
    mesh::{scope::Scope, validate::Unreached, world::World},
    translate::naming::outbound_parts,
    xds::{resource::Resource, resource_type::ResourceType, view::Layer},
};

/// The clusters that the resources of a layer name in vain. It is kept up to date at the cost of what changed.
#[derive(Debug, Default)]
pub(super) struct MissingClusters {
    /// By the resource that names them; no entry is empty.
    by_resource: BTreeMap<SmolStr, BTreeSet<SmolStr>>,
}

impl MissingClusters {
    /// Follows a change of the resources, and of the clusters that there are by name.
    pub(super) fn update(&mut self, resources: &Layer, changes: &Changes, clusters: &Layer, renamed: &BTreeSet<SmolStr>) {
        for name in &changes.named {
            self.by_resource.remove(name);
        }
        for resource in changes.made.iter().filter_map(|name| resources.get(name)) {
            let named = resource.references_to(ResourceType::Cluster);
            self.set(resource, named.filter(|cluster| is_missing(cluster, clusters)).cloned().collect());
        }
        for cluster in renamed {
            let missing = is_missing(cluster, clusters);
            for resource in resources.values().filter(|resource| resource.refers_to(ResourceType::Cluster, cluster)) {
                let mut known = self.by_resource.remove(&resource.name).unwrap_or_default();
                if missing {
                    known.insert(cluster.clone())
                } else {
                    known.remove(cluster)
                };
                self.set(resource, known);
            }
        }
    }

    /// Says of each at which object it can be mended; `left_out` are those that Envoy would refuse.
    pub(super) fn findings(&self, world: &World, scope: &Scope, resources: &Layer, left_out: &BTreeSet<&SmolStr>) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for (name, clusters) in &self.by_resource {
            let Some(resource) = resources.get(name) else { continue };
            for cluster in clusters {
                let Some((port, subset, host)) = outbound_parts(cluster) else { continue };
                let is_left_out = left_out.contains(cluster);
                found.extend(Unreached { world, scope, port, subset, host: &host, is_left_out }.findings(&resource.origins));
            }
        }
        found
    }

    fn set(&mut self, resource: &Resource, missing: BTreeSet<SmolStr>) {
        if missing.is_empty() {
            self.by_resource.remove(&resource.name);
        } else {
            self.by_resource.insert(resource.name.clone(), missing);
        }
    }
}

/// Returns whether a cluster of a service is not there; only such come and go.
fn is_missing(cluster: &SmolStr, clusters: &Layer) -> bool {
    outbound_parts(cluster).is_some() && !clusters.contains_key(cluster)
}

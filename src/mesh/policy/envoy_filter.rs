//! The patches of EnvoyFilters that are for a proxy, in order.

use std::{cmp::Ordering, sync::Arc};

use smol_str::format_smolstr;

use crate::mesh::{
    by_ptr::ByPtr,
    configured::Configured,
    envoy_filter::{EnvoyFilter, Patch},
    model::Proxy,
    world::World,
};

/// Patches in the order in which they are applied. Sets of the same patches are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Patches(Arc<[ByPtr<Patch>]>);

impl Patches {
    /// Returns the patches that are for a proxy: those of a lower priority first, then those of the root namespace, then by age and
    /// name.
    pub fn of(world: &World, proxy: &Proxy) -> Self {
        let root = &world.mesh.root_namespace;
        let mut filters = world.envoy_filters.applying(root, &proxy.namespace, &proxy.labels);
        filters.sort_by(|a, b| precedence(root, a, b));
        filters.into_iter().flat_map(|filter| &filter.spec.patches).filter(|patch| patch.is_for(&proxy.metadata)).map(ByPtr::from).collect()
    }

    /// Returns those for which `keep` holds.
    pub fn that(&self, keep: impl Fn(&Patch) -> bool) -> Self {
        // All share one empty list.
        match self.0.iter().all(|patch| keep(patch)) {
            true => self.clone(),
            false => self.0.iter().filter(|patch| keep(patch)).cloned().collect(),
        }
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns them in order.
    pub fn as_slice(&self) -> &[ByPtr<Patch>] {
        &self.0
    }
}

impl FromIterator<ByPtr<Patch>> for Patches {
    fn from_iter<I: IntoIterator<Item = ByPtr<Patch>>>(patches: I) -> Self {
        let patches: Vec<_> = patches.into_iter().collect();
        if patches.is_empty() { Self::default() } else { Self(patches.into()) }
    }
}

// As istiod sorts them: name and namespace are compared as one text.
fn precedence(root: &str, a: &Configured<EnvoyFilter>, b: &Configured<EnvoyFilter>) -> Ordering {
    let key = |filter: &Configured<EnvoyFilter>| {
        let object = &filter.origin.object;
        let name = format_smolstr!("{}.{}", object.name, object.namespace);
        (filter.spec.priority, object.namespace != root, filter.precedence.created, name)
    };
    key(a).cmp(&key(b))
}

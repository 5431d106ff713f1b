//! The patches of EnvoyFilters that are for a proxy, in order.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use smol_str::format_smolstr;

use crate::{
    api::ObjectKey,
    mesh::{
        by_ptr::ByPtr,
        configured::Configured,
        envoy_filter::{EnvoyFilter, Patch},
        model::{Origin, Proxy},
        world::World,
    },
};

/// Patches in the order in which they are applied. Sets of the same patches are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Patches {
    newest: Arc<[ByPtr<Patch>]>,
    /// What stands in for those of an object of which some cannot be applied; of each object the newest first.
    earlier: Arc<[Earlier]>,
}

/// What an EnvoyFilter said before. Without patches it said nothing about what these are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Earlier {
    origin: Origin,
    patches: Arc<[ByPtr<Patch>]>,
}

/// Patches among which those of some objects are what these said before.
#[derive(Debug)]
pub struct StandingIn {
    /// The patches.
    pub patches: Patches,
    /// Which content of which objects it is.
    pub contents: Vec<Origin>,
}

impl Patches {
    /// Returns the patches that are for a proxy: those of a lower priority first, then those of the root namespace, then by age and
    /// name.
    pub fn of(world: &World, proxy: &Proxy) -> Self {
        let root = &world.mesh.root_namespace;
        let mut filters = world.envoy_filters.applying(root, &proxy.namespace, &proxy.labels);
        filters.sort_by(|a, b| precedence(root, a, b));
        let of = |filter: &EnvoyFilter| {
            let patches: Vec<_> = filter.patches.iter().filter(|patch| patch.is_for(&proxy.metadata)).map(ByPtr::from).collect();
            patches
        };
        let newest = filters.iter().flat_map(|filter| of(filter.spec.in_effect().0)).collect();
        let earlier = filters.iter().flat_map(|filter| filter.spec.in_effect().1).map(|earlier| {
            let was_for = earlier.is_for(root, &proxy.namespace, &proxy.labels);
            Earlier { origin: earlier.origin.clone(), patches: if was_for { of(&earlier.spec).into() } else { Arc::default() } }
        });
        Self::new(newest, earlier.collect())
    }

    fn new(newest: Vec<ByPtr<Patch>>, earlier: Vec<Earlier>) -> Self {
        // All share one empty list.
        if newest.is_empty() { Self::default() } else { Self { newest: newest.into(), earlier: earlier.into() } }
    }

    /// Returns those for which `keep` holds.
    pub fn that(&self, keep: impl Fn(&Patch) -> bool) -> Self {
        let mut all = self.newest.iter().chain(self.earlier.iter().flat_map(|earlier| &*earlier.patches));
        if all.all(|patch| keep(patch)) {
            return self.clone();
        }
        let kept = |patches: &[ByPtr<Patch>]| -> Vec<_> { patches.iter().filter(|patch| keep(patch)).cloned().collect() };
        let newest = kept(&self.newest);
        let is_changed = |earlier: &&Earlier| newest.iter().any(|patch| patch.origin.object == earlier.origin.object);
        let earlier = self.earlier.iter().filter(is_changed);
        let earlier =
            earlier.map(|Earlier { origin, patches }| Earlier { origin: origin.clone(), patches: kept(patches).into() }).collect();
        Self::new(newest, earlier)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// Returns them in order.
    pub fn as_slice(&self) -> &[ByPtr<Patch>] {
        &self.newest
    }

    /// Iterates over what may stand in for these if some of `objects` cannot be applied: what these said before, the newest first.
    pub fn standing_in<'a>(&'a self, objects: &'a BTreeSet<ObjectKey>) -> impl Iterator<Item = StandingIn> + 'a {
        (0..).map(move |age| self.before(age, objects)).take_while(|before| !before.contents.is_empty())
    }

    /// Returns these with what some objects said so many contents before the newest.
    fn before(&self, age: usize, objects: &BTreeSet<ObjectKey>) -> StandingIn {
        let (mut patches, mut contents) = (Vec::new(), Vec::new());
        for of_object in self.newest.chunk_by(|a, b| a.origin.object == b.origin.object) {
            let object = of_object.first().map(|patch| &patch.origin.object).filter(|object| objects.contains(*object));
            match self.earlier.iter().filter(|earlier| Some(&earlier.origin.object) == object).nth(age) {
                Some(earlier) => {
                    patches.extend_from_slice(&earlier.patches);
                    contents.push(earlier.origin.clone());
                }
                None => patches.extend_from_slice(of_object),
            }
        }
        StandingIn { patches: Self::new(patches, Vec::new()), contents }
    }
}

impl FromIterator<ByPtr<Patch>> for Patches {
    fn from_iter<I: IntoIterator<Item = ByPtr<Patch>>>(patches: I) -> Self {
        Self::new(patches.into_iter().collect(), Vec::new())
    }
}

// As istiod sorts them: name and namespace are compared as one text.
fn precedence(root: &str, a: &Configured<EnvoyFilter>, b: &Configured<EnvoyFilter>) -> Ordering {
    let key = |filter: &Configured<EnvoyFilter>| {
        let object = &filter.origin.object;
        let name = format_smolstr!("{}.{}", object.name, object.namespace);
        (filter.spec.in_effect().0.priority, object.namespace != root, filter.precedence.created, name)
    };
    key(a).cmp(&key(b))
}

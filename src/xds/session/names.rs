//! The names that a client asked for, without a list of them where they are what the view has anyway.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use crate::{
    visits::{Visit, Visited},
    xds::{
        resource_type::ResourceType,
        view::{Difference, View},
    },
};

/// Fewer names than this are simply listed.
const LISTED: usize = 64;

/// A set of names. Envoy subscribes to every ClusterLoadAssignment and route table that there is, so a large set is
/// kept as "all that the view has" with the few names beyond (`plus`) and short of it (`minus`).
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    follows_view: bool,
    plus: BTreeSet<SmolStr>,
    minus: BTreeSet<SmolStr>,
    /// How many of them the view does not have.
    strangers: usize,
    next_compaction: usize,
}

impl Names {
    /// Returns whether the set has `name`; `view` is the one that it was last [`rebase`](Self::rebase)d to.
    pub(super) fn contains(&self, name: &str, view: &View, kind: ResourceType) -> bool {
        self.plus.contains(name) || (self.follows_view && !self.minus.contains(name) && view.get(kind, name).is_some())
    }

    /// Adds a name; returns whether it is new.
    pub(super) fn insert(&mut self, name: &str, view: &View, kind: ResourceType) -> bool {
        if self.contains(name, view, kind) {
            return false;
        }
        let known = view.get(kind, name);
        self.strangers += usize::from(known.is_none());
        if !(self.follows_view && known.is_some() && self.minus.remove(name)) {
            // The view's own string where it has the name: one allocation for all proxies.
            self.plus.insert(known.map_or_else(|| name.into(), |resource| resource.name.clone()));
        }
        self.compact(view, kind);
        true
    }

    /// Removes a name; returns whether it was there.
    pub(super) fn remove(&mut self, name: &str, view: &View, kind: ResourceType) -> bool {
        if self.plus.remove(name) {
            self.strangers -= usize::from(view.get(kind, name).is_none());
            return true;
        }
        match view.get(kind, name) {
            Some(resource) if self.follows_view => self.minus.insert(resource.name.clone()),
            _ => false,
        }
    }

    /// Iterates over all names, in no particular order.
    pub(super) fn iter<'a>(&'a self, view: &'a View, kind: ResourceType) -> impl Iterator<Item = &'a SmolStr> {
        let followed = self.follows_view.then(|| view.iter(kind)).into_iter().flatten();
        followed.map(|resource| &resource.name).filter(|name| !self.minus.contains(*name)).chain(&self.plus)
    }

    /// Keeps the set as it is while the view that it refers to changes by `differences`.
    pub(super) fn rebase(&mut self, differences: &[Difference<'_>], old: &View, kind: ResourceType) {
        for difference in differences {
            match difference {
                Difference::Removed(name) => self.strangers += usize::from(self.contains(name, old, kind)),
                Difference::Changed(resource) if old.get(kind, &resource.name).is_none() => {
                    self.strangers -= usize::from(self.plus.contains(&resource.name));
                }
                Difference::Changed(_) => {}
            }
            if !self.follows_view {
                continue;
            }
            match difference {
                Difference::Removed(name) if !self.minus.remove(*name) => {
                    self.plus.insert((*name).clone());
                }
                Difference::Changed(resource) if old.get(kind, &resource.name).is_none() && !self.plus.remove(&resource.name) => {
                    self.minus.insert(resource.name.clone());
                }
                _ => {}
            }
        }
    }

    /// Returns how many names there are.
    pub(super) fn len(&self, view: &View, kind: ResourceType) -> usize {
        let followed = if self.follows_view { view.len(kind).saturating_sub(self.minus.len()) } else { 0 };
        followed + self.plus.len()
    }

    /// Returns how many of the names the view does not have.
    pub(super) fn strangers(&self) -> usize {
        self.strangers
    }

    /// Returns how many names are listed one by one.
    pub(super) fn listed(&self) -> usize {
        self.plus.len() + self.minus.len()
    }

    fn compact(&mut self, view: &View, kind: ResourceType) {
        if self.follows_view || self.plus.len() < self.next_compaction.max(LISTED) {
            return;
        }
        self.next_compaction = self.plus.len() * 2;
        let shared = self.plus.iter().visiting(Visited::Name).filter(|name| view.get(kind, name).is_some()).count();
        if view.len(kind) - shared < shared {
            self.minus = view.iter(kind).map(|resource| &resource.name).filter(|name| !self.plus.contains(*name)).cloned().collect();
            self.plus.retain(|name| view.get(kind, name).is_none());
            self.follows_view = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::session::tests::{endpoint, view};

    #[test]
    fn a_large_subscription_is_kept_as_its_difference_from_the_view() {
        let kind = ResourceType::Endpoint;
        let old = view(1, (0..300).map(|i| endpoint(&format!("c{i}"), 1)));
        let mut names = Names::default();
        for i in 0..300 {
            assert!(names.insert(&format!("c{i}"), &old, kind));
        }
        assert!(names.listed() < 150, "{}", names.listed());
        assert_eq!((names.iter(&old, kind).count(), names.len(&old, kind)), (300, 300));

        assert_eq!(names.strangers(), 0);
        let new = view(2, (1..301).map(|i| endpoint(&format!("c{i}"), 1)));
        names.rebase(&new.differences(&old, kind), &old, kind);
        assert!(names.contains("c0", &new, kind), "a name stays asked for when the view loses it");
        assert_eq!(names.strangers(), 1);
        assert!(!names.contains("c300", &new, kind), "a name is not asked for because the view has it");
        assert_eq!(names.iter(&new, kind).count(), 300);
        assert!(names.remove("c0", &new, kind) && names.remove("c7", &new, kind) && !names.remove("c7", &new, kind));
        assert!(names.insert("c300", &new, kind) && !names.insert("c300", &new, kind));
        assert_eq!((names.iter(&new, kind).count(), names.len(&new, kind)), (299, 299));
        assert_eq!(names.strangers(), 0);
    }

    #[test]
    fn what_the_view_does_not_have_is_counted() {
        let kind = ResourceType::Endpoint;
        let (one, both) = (view(1, [endpoint("a", 1)]), view(2, [endpoint("a", 1), endpoint("b", 1)]));
        let mut names = Names::default();
        for name in ["a", "b", "c", "c"] {
            names.insert(name, &one, kind);
        }
        assert_eq!(names.strangers(), 2);
        names.rebase(&both.differences(&one, kind), &one, kind);
        assert_eq!(names.strangers(), 1);
        names.rebase(&one.differences(&both, kind), &both, kind);
        assert_eq!(names.strangers(), 2);
        assert!(names.remove("b", &one, kind) && names.remove("a", &one, kind) && names.remove("c", &one, kind));
        assert_eq!((names.strangers(), names.listed()), (0, 0));
    }
}

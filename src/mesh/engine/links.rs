//! A two-way index: which things a thing was made from, and what was made from a thing.

use std::collections::{BTreeMap, BTreeSet};

/// Many-to-many links between derived values (`A`) and what they read (`B`).
#[derive(Debug)]
pub(super) struct Links<A, B> {
    forward: BTreeMap<A, BTreeSet<B>>,
    back: BTreeMap<B, BTreeSet<A>>,
}

impl<A, B> Default for Links<A, B> {
    fn default() -> Self {
        Self { forward: BTreeMap::new(), back: BTreeMap::new() }
    }
}

impl<A: Ord + Clone, B: Ord + Clone> Links<A, B> {
    /// Replaces what `a` reads.
    pub(super) fn set(&mut self, a: &A, reads: BTreeSet<B>) {
        let before = if reads.is_empty() { self.forward.remove(a) } else { self.forward.insert(a.clone(), reads.clone()) };
        let before = before.unwrap_or_default();
        for gone in before.difference(&reads) {
            if let Some(readers) = self.back.get_mut(gone) {
                readers.remove(a);
                if readers.is_empty() {
                    self.back.remove(gone);
                }
            }
        }
        for new in reads.difference(&before) {
            self.back.entry(new.clone()).or_default().insert(a.clone());
        }
    }

    /// What `a` reads.
    pub(super) fn read_by(&self, a: &A) -> impl Iterator<Item = &B> {
        self.forward.get(a).into_iter().flatten()
    }

    /// What reads `b`.
    pub(super) fn readers_of(&self, b: &B) -> impl Iterator<Item = &A> {
        self.back.get(b).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_replaced_whole() {
        let mut links = Links::default();
        links.set(&"slice", BTreeSet::from(["pod-1", "pod-2"]));
        links.set(&"slice", BTreeSet::from(["pod-2", "pod-3"]));
        assert_eq!(links.readers_of(&"pod-1").count(), 0);
        assert_eq!(links.readers_of(&"pod-3").collect::<Vec<_>>(), [&"slice"]);
        links.set(&"slice", BTreeSet::new());
        assert_eq!(links.readers_of(&"pod-2").count(), 0);
        assert_eq!(links.read_by(&"slice").count(), 0);
    }
}

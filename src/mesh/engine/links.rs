//! A two-way index: which things a thing was made from, and what was made from a thing.

use std::hash::Hash;

use rustc_hash::{FxHashMap, FxHashSet};

/// Many-to-many links between derived values (`A`) and what they read (`B`). In no order: who reads them sorts.
#[derive(Debug)]
pub(super) struct Links<A, B> {
    forward: FxHashMap<A, Vec<B>>,
    back: FxHashMap<B, FxHashSet<A>>,
}

impl<A, B> Default for Links<A, B> {
    fn default() -> Self {
        Self { forward: FxHashMap::default(), back: FxHashMap::default() }
    }
}

impl<A: Eq + Hash + Clone, B: Ord + Hash + Clone> Links<A, B> {
    /// Replaces what `a` reads.
    pub(super) fn set(&mut self, a: &A, reads: impl IntoIterator<Item = B>) {
        let mut reads: Vec<B> = reads.into_iter().collect();
        reads.sort_unstable();
        reads.dedup();
        let before = self.forward.remove(a).unwrap_or_default();
        for gone in before.iter().filter(|old| reads.binary_search(old).is_err()) {
            if let Some(readers) = self.back.get_mut(gone) {
                readers.remove(a);
                if readers.is_empty() {
                    self.back.remove(gone);
                }
            }
        }
        for new in reads.iter().filter(|new| before.binary_search(new).is_err()) {
            self.back.entry(new.clone()).or_default().insert(a.clone());
        }
        if !reads.is_empty() {
            self.forward.insert(a.clone(), reads);
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
        links.set(&"slice", ["pod-1", "pod-2"]);
        links.set(&"slice", ["pod-3", "pod-2", "pod-3"]);
        assert_eq!(links.readers_of(&"pod-1").count(), 0);
        assert_eq!(links.readers_of(&"pod-3").collect::<Vec<_>>(), [&"slice"]);
        links.set(&"slice", []);
        assert_eq!(links.readers_of(&"pod-2").count(), 0);
        assert_eq!(links.read_by(&"slice").count(), 0);
    }
}

//! A two-way index: which things a thing was made from, and what was made from a thing.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// Many-to-many links between derived values (`A`) and what they read (`B`).
#[derive(Debug)]
pub(super) struct Links<A, B> {
    forward: BTreeMap<A, OneOrMore<B>>,
    back: BTreeMap<B, OneOrMore<A>>,
}

/// One value or more. One is by far the most common (a pod has one node, and mostly one slice), and costs no table.
#[derive(Debug)]
enum OneOrMore<T> {
    One(T),
    More(BTreeSet<T>),
}

impl<A, B> Default for Links<A, B> {
    fn default() -> Self {
        Self { forward: BTreeMap::new(), back: BTreeMap::new() }
    }
}

impl<A: Ord + Clone, B: Ord + Clone> Links<A, B> {
    /// Replaces what `a` reads.
    pub(super) fn set(&mut self, a: &A, reads: BTreeSet<B>) {
        let before = self.forward.remove(a);
        let before: BTreeSet<&B> = before.iter().flat_map(OneOrMore::iter).collect();
        for gone in before.iter().filter(|b| !reads.contains(**b)) {
            let Entry::Occupied(mut readers) = self.back.entry(B::clone(gone)) else { continue };
            if !readers.get_mut().remove(a) {
                readers.remove();
            }
        }
        for new in reads.iter().filter(|b| !before.contains(b)) {
            match self.back.entry(new.clone()) {
                Entry::Vacant(vacant) => _ = vacant.insert(OneOrMore::One(a.clone())),
                Entry::Occupied(mut readers) => readers.get_mut().insert(a.clone()),
            }
        }
        if let Some(reads) = OneOrMore::of(reads) {
            self.forward.insert(a.clone(), reads);
        }
    }

    /// What `a` reads.
    pub(super) fn read_by(&self, a: &A) -> impl Iterator<Item = &B> {
        self.forward.get(a).into_iter().flat_map(OneOrMore::iter)
    }

    /// What reads `b`.
    pub(super) fn readers_of(&self, b: &B) -> impl Iterator<Item = &A> {
        self.back.get(b).into_iter().flat_map(OneOrMore::iter)
    }
}

impl<T: Ord + Clone> OneOrMore<T> {
    fn of(mut values: BTreeSet<T>) -> Option<Self> {
        match values.len() {
            0 | 1 => values.pop_first().map(Self::One),
            _ => Some(Self::More(values)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, more) = match self {
            Self::One(one) => (Some(one), None),
            Self::More(more) => (None, Some(more)),
        };
        one.into_iter().chain(more.into_iter().flatten())
    }

    fn insert(&mut self, value: T) {
        match self {
            Self::One(one) if *one == value => {}
            Self::One(one) => *self = Self::More(BTreeSet::from([one.clone(), value])),
            Self::More(more) => _ = more.insert(value),
        }
    }

    /// Takes a value out; says whether others are left.
    fn remove(&mut self, value: &T) -> bool {
        match self {
            Self::One(one) => one != value,
            Self::More(more) => {
                more.remove(value);
                !more.is_empty()
            }
        }
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

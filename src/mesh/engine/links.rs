//! A two-way index: which things a thing was made from, and what was made from a thing.

use std::borrow::Borrow;

use imbl::{OrdMap, OrdSet};

/// Many-to-many links between derived values (`A`) and what they read (`B`). A copy shares them with its source.
#[derive(Clone)]
pub(super) struct Links<A, B> {
    forward: OrdMap<A, OneOrMore<B>>,
    back: OrdMap<B, OneOrMore<A>>,
}

/// One value or more. One is by far the most common (a pod has one node, and mostly one slice), and costs no table.
#[derive(Clone)]
enum OneOrMore<T> {
    One(T),
    More(OrdSet<T>),
}

impl<A, B> Default for Links<A, B> {
    fn default() -> Self {
        Self { forward: OrdMap::new(), back: OrdMap::new() }
    }
}

impl<A: Ord + Clone, B: Ord + Clone> Links<A, B> {
    /// Replaces what `a` reads.
    pub(super) fn set(&mut self, a: &A, reads: impl IntoIterator<Item = B>) {
        let reads = OneOrMore::of(reads);
        let before = self.forward.remove(a);
        let reading = |b: &B, reads: &Option<OneOrMore<B>>| reads.as_ref().is_some_and(|reads| reads.contains(b));
        for gone in before.iter().flat_map(OneOrMore::iter).filter(|b| !reading(b, &reads)) {
            if self.back.get_mut(gone).is_some_and(|readers| !readers.remove(a)) {
                self.back.remove(gone);
            }
        }
        for new in reads.iter().flat_map(OneOrMore::iter).filter(|b| !reading(b, &before)) {
            match self.back.get_mut(new) {
                Some(readers) => readers.insert(a.clone()),
                None => _ = self.back.insert(new.clone(), OneOrMore::One(a.clone())),
            }
        }
        if let Some(reads) = reads {
            self.forward.insert(a.clone(), reads);
        }
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.forward.ptr_eq(&other.forward) && self.back.ptr_eq(&other.back)
    }

    /// Returns what `a` reads.
    pub(super) fn read_by<Q: Ord>(&self, a: &Q) -> impl Iterator<Item = &B>
    where
        A: Borrow<Q>,
    {
        self.forward.get(a).into_iter().flat_map(OneOrMore::iter)
    }

    /// Returns what reads `b`.
    pub(super) fn readers_of(&self, b: &B) -> impl Iterator<Item = &A> {
        self.back.get(b).into_iter().flat_map(OneOrMore::iter)
    }
}

impl<T: Ord + Clone> OneOrMore<T> {
    fn of(values: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut values = values.into_iter();
        let mut all = Self::One(values.next()?);
        values.for_each(|value| all.insert(value));
        Some(all)
    }

    fn contains(&self, value: &T) -> bool {
        match self {
            Self::One(one) => one == value,
            Self::More(more) => more.contains(value),
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
            Self::One(one) => *self = Self::More(OrdSet::from_iter([one.clone(), value])),
            Self::More(more) => _ = more.insert(value),
        }
    }

    /// Removes a value; returns whether others are left.
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
        links.set(&"slice", ["pod-1", "pod-2"]);
        links.set(&"slice", ["pod-3", "pod-2", "pod-3"]);
        assert_eq!(links.readers_of(&"pod-1").count(), 0);
        assert_eq!(links.readers_of(&"pod-3").collect::<Vec<_>>(), [&"slice"]);
        links.set(&"slice", []);
        assert_eq!(links.readers_of(&"pod-2").count(), 0);
        assert_eq!(links.read_by(&"slice").count(), 0);
    }
}

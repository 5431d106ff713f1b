//! Pairs that are found by their first part.

use imbl::OrdSet;

/// Which `B`s belong to an `A`. A copy shares the pairs with its source.
#[derive(Clone)]
pub(super) struct Relation<A, B>(OrdSet<(A, B)>);

impl<A, B> Default for Relation<A, B> {
    fn default() -> Self {
        Self(OrdSet::new())
    }
}

// The default of `B` sorts first: it is where the pairs of an `A` begin.
impl<A: Ord + Clone, B: Ord + Clone + Default> Relation<A, B> {
    pub(super) fn insert(&mut self, a: &A, b: &B) {
        self.0.insert((a.clone(), b.clone()));
    }

    pub(super) fn remove(&mut self, a: &A, b: &B) {
        self.0.remove(&(a.clone(), b.clone()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// Returns all that belong to `a`, sorted.
    pub(super) fn of<'a>(&'a self, a: &'a A) -> impl Iterator<Item = &'a B> {
        self.0.range((a.clone(), B::default())..).take_while(move |(of, _)| of == a).map(|(_, b)| b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_another_are_not_found() {
        let mut relation: Relation<&str, &str> = Relation::default();
        for (a, b) in [("a", "2"), ("a", "1"), ("aa", "3"), ("b", "4")] {
            relation.insert(&a, &b);
        }
        assert_eq!(relation.of(&"a").collect::<Vec<_>>(), [&"1", &"2"]);
        relation.remove(&"a", &"2");
        relation.remove(&"a", &"4");
        assert_eq!(relation.of(&"a").collect::<Vec<_>>(), [&"1"]);
        assert_eq!(relation.of(&"c").count(), 0);
    }
}

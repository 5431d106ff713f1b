//! How many roots are given the routes of one delegate. Both lists are of several objects, whose owners may not know of each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use imbl::OrdMap;

use crate::{
    mesh::model::{NamedKey, Precedence},
    visits::{Visit, Visited},
};

/// The most matches that become of one delegate's in all its roots. The oldest root is given them in any case.
const MOST_MATCHES: usize = 50_000;

/// Delegates and their roots. A copy shares them with its source.
#[derive(Clone, Default)]
pub(super) struct Delegations {
    by_delegate: OrdMap<NamedKey, Roots>,
    /// The age of each root, and the delegates that it names.
    by_root: OrdMap<NamedKey, (Precedence, Vec<NamedKey>)>,
}

/// The roots of one delegate.
#[derive(Clone, Default)]
struct Roots {
    /// The oldest first, with how many matches of theirs take over each of the delegate's.
    matches: OrdMap<Precedence, usize>,
    /// How many these are together.
    all: usize,
    /// The youngest that is given the routes; `None`: all are.
    last: Option<Precedence>,
}

impl Delegations {
    /// Replaces what a root names, by delegate with how many matches; returns the delegates that it names or named.
    pub(super) fn set(&mut self, root: &NamedKey, named: Option<(Precedence, BTreeMap<NamedKey, usize>)>) -> BTreeSet<NamedKey> {
        let mut concerned = BTreeSet::new();
        if let Some((age, delegates)) = self.by_root.remove(root) {
            for delegate in delegates {
                if let Some(roots) = self.by_delegate.get_mut(&delegate) {
                    roots.all -= roots.matches.remove(&age).unwrap_or_default();
                    if roots.matches.is_empty() {
                        self.by_delegate.remove(&delegate);
                    }
                }
                concerned.insert(delegate);
            }
        }
        let Some((age, delegates)) = named.filter(|(_, delegates)| !delegates.is_empty()) else { return concerned };
        for (delegate, matches) in &delegates {
            let roots = self.by_delegate.entry(delegate.clone()).or_default();
            roots.matches.insert(age.clone(), *matches);
            roots.all += matches;
        }
        concerned.extend(delegates.keys().cloned());
        self.by_root.insert(root.clone(), (age, delegates.into_keys().collect()));
        concerned
    }

    /// Finds anew which roots are given the routes of a delegate that has so many matches; returns those that are now and were not,
    /// or the other way round.
    pub(super) fn settle(&mut self, delegate: &NamedKey, matches: usize) -> Vec<NamedKey> {
        let Some(roots) = self.by_delegate.get_mut(delegate) else { return Vec::new() };
        let last = roots.last_within(MOST_MATCHES / matches.max(1));
        if roots.last == last {
            return Vec::new();
        }
        let before = std::mem::replace(&mut roots.last, last.clone());
        let (from, to) = match (before, last) {
            (Some(one), Some(other)) => (one.clone().min(other.clone()), Bound::Included(one.max(other))),
            (Some(one), None) | (None, Some(one)) => (one, Bound::Unbounded),
            (None, None) => return Vec::new(),
        };
        let turned = roots.matches.range((Bound::Excluded(from), to)).visiting(Visited::Route);
        turned.map(|(root, _)| (root.namespace.clone(), root.name.clone())).collect()
    }

    /// Returns whether a root is given the routes of a delegate.
    pub(super) fn gives(&self, delegate: &NamedKey, root: &Precedence) -> bool {
        self.by_delegate.get(delegate).and_then(|roots| roots.last.as_ref()).is_none_or(|last| root <= last)
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.by_delegate.ptr_eq(&other.by_delegate) && self.by_root.ptr_eq(&other.by_root)
    }
}

impl Roots {
    /// Returns the youngest of the oldest roots that have so many matches together; `None`: all roots.
    fn last_within(&self, most: usize) -> Option<Precedence> {
        if self.all <= most {
            return None;
        }
        let mut taken: usize = 0;
        let mut within = self.matches.iter().visiting(Visited::Route).take_while(|(_, matches)| {
            let is_first = taken == 0;
            taken = taken.saturating_add(**matches);
            is_first || taken <= most
        });
        let first = within.next()?;
        within.last().or(Some(first)).map(|(age, _)| age.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(name: &str, created: i64) -> Precedence {
        Precedence { created, name: name.into(), namespace: "shop".into() }
    }

    fn key(name: &str) -> NamedKey {
        ("shop".into(), name.into())
    }

    #[test]
    fn the_oldest_are_given_the_routes_and_others_turn_as_roots_come_and_go() {
        let (mut delegations, leaf) = (Delegations::default(), key("leaf"));
        let root = |delegations: &mut Delegations, name: &str, created: Option<i64>| {
            let named = created.map(|created| (age(name, created), BTreeMap::from([(leaf.clone(), 1)])));
            assert_eq!(delegations.set(&key(name), named), BTreeSet::from([leaf.clone()]));
            // Two roots fit.
            delegations.settle(&leaf, MOST_MATCHES / 2)
        };
        for (name, created) in [("b", 2), ("c", 3)] {
            assert_eq!(root(&mut delegations, name, Some(created)), []);
        }
        assert_eq!(root(&mut delegations, "d", Some(4)), [key("d")]);
        assert_eq!(root(&mut delegations, "a", Some(1)), [key("c")]);
        let given = |delegations: &Delegations| {
            [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(name, created)| delegations.gives(&key("leaf"), &age(name, created)))
        };
        assert_eq!(given(&delegations), [true, true, false, false]);
        assert_eq!(root(&mut delegations, "b", None), [key("c")]);
        assert_eq!(given(&delegations), [true, true, true, false]);
        assert_eq!(delegations.settle(&key("leaf"), 2 * MOST_MATCHES), [key("c")], "the oldest has them in any case");
        assert_eq!(delegations.settle(&key("leaf"), 1), [key("c"), key("d")]);
        assert_eq!(given(&delegations), [true; 4]);
    }
}

//! Which of several things comes first for those who see it together with another, without comparing each with each.

use std::collections::HashMap;

use smol_str::SmolStr;

use super::model::Visibility;
use crate::visits::{self, Visited};

/// Things by who sees them, in order.
#[derive(Default)]
pub(super) struct FirstSeen<'a> {
    public: Option<usize>,
    by_namespace: HashMap<&'a SmolStr, usize>,
    /// Of the things for single namespaces, the first for each of the first two namespaces.
    first: Vec<(&'a SmolStr, usize)>,
}

impl<'a> FirstSeen<'a> {
    /// Adds the next thing.
    pub(super) fn add(&mut self, place: usize, seen_by: &'a Visibility) {
        match seen_by {
            Visibility::Public => _ = self.public.get_or_insert(place),
            Visibility::None => {}
            Visibility::Namespaces(names) => {
                visits::count(Visited::Written, names.len());
                for name in names.iter() {
                    self.by_namespace.entry(name).or_insert(place);
                    if self.first.len() < 2 && self.first.iter().all(|(known, _)| *known != name) {
                        self.first.push((name, place));
                    }
                }
            }
        }
    }

    /// Returns the first thing that some namespace but `except` sees together with what is seen by `seen_by`.
    pub(super) fn seen_with(&self, seen_by: &Visibility, except: &str) -> Option<usize> {
        match seen_by {
            Visibility::None => None,
            Visibility::Public => {
                let of_some = self.first.iter().find(|(name, _)| *name != except).map(|(_, place)| *place);
                self.public.into_iter().chain(of_some).min()
            }
            Visibility::Namespaces(names) => {
                let mut others = names.iter().filter(|name| *name != except).peekable();
                let public = self.public.filter(|_| others.peek().is_some());
                public.into_iter().chain(self.first_of(others)).min()
            }
        }
    }

    /// Returns the first thing that some namespace sees together with this, where neither is for all and the other for some.
    pub(super) fn as_wide_as(&self, seen_by: &Visibility) -> Option<usize> {
        match seen_by {
            Visibility::None => None,
            Visibility::Public => self.public,
            Visibility::Namespaces(names) => self.first_of(names.iter()),
        }
    }

    fn first_of<'n>(&self, names: impl Iterator<Item = &'n SmolStr>) -> Option<usize> {
        names.inspect(|_| visits::count(Visited::Written, 1)).filter_map(|name| self.by_namespace.get(name)).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(one: &Visibility, other: &Visibility, except: &str) -> bool {
        match (one, other) {
            (Visibility::None, _) | (_, Visibility::None) => false,
            (Visibility::Public, Visibility::Public) => true,
            (Visibility::Namespaces(names), other) | (other, Visibility::Namespaces(names)) => {
                names.iter().any(|name| name != except && other.allows(name))
            }
        }
    }

    fn seen_by() -> impl Strategy<Value = Visibility> {
        let names = prop::collection::vec("[a-d]", 0..4);
        let some = names.prop_map(|names| Visibility::Namespaces(names.into_iter().map(SmolStr::from).collect()));
        prop_oneof![Just(Visibility::Public), Just(Visibility::None), some.clone(), some]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_finds_what_comparing_each_with_each_finds(things in prop::collection::vec(seen_by(), 0..6), with in seen_by(), except in "[a-d]?") {
            let mut index = FirstSeen::default();
            things.iter().enumerate().for_each(|(place, thing)| index.add(place, thing));
            prop_assert_eq!(index.seen_with(&with, &except), things.iter().position(|thing| share(thing, &with, &except)));
            let is_public = |thing: &Visibility| *thing == Visibility::Public;
            let as_wide = |thing: &Visibility| is_public(thing) == is_public(&with) && share(thing, &with, "");
            prop_assert_eq!(index.as_wide_as(&with), things.iter().position(as_wide));
        }
    }
}

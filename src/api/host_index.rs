//! Host names and wildcards by what they have in common, so that lists of them need not be compared name by name.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::visits::{self, Visited};

/// Hosts, each with its place in the list that it comes from. Of equal ones the first counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostIndex {
    /// What begins with no `*`.
    names: BTreeMap<SmolStr, usize>,
    /// What follows the `*` of wildcards.
    wildcards: BTreeMap<SmolStr, usize>,
    /// How long what follows the `*` is.
    lengths: BTreeSet<usize>,
    /// All, from the last letter to the first, without `*`.
    from_the_end: BTreeMap<Vec<u8>, usize>,
}

impl HostIndex {
    /// Adds a host.
    pub(crate) fn insert(&mut self, host: &str, place: usize) {
        visits::count(Visited::Written, 1);
        let letters = letters(host);
        if letters.len() < host.len() {
            self.lengths.insert(letters.len());
            self.wildcards.entry(letters.into()).or_insert(place);
        } else {
            self.names.entry(host.into()).or_insert(place);
        }
        self.from_the_end.entry(reversed(letters)).or_insert(place);
    }

    /// Returns whether there are no hosts.
    pub(crate) fn is_empty(&self) -> bool {
        self.from_the_end.is_empty()
    }

    /// Returns the place of the first that stands for every name that `host` stands for.
    pub(crate) fn covering(&self, host: &str) -> Option<usize> {
        let letters = letters(host);
        let ends = self.lengths.range(..=letters.len()).filter_map(|length| {
            visits::count(Visited::Written, 1);
            self.wildcards.get(letters.get(letters.len() - length..)?)
        });
        let same = self.names.get(host);
        visits::count(Visited::Written, 1);
        ends.chain(same).min().copied()
    }

    /// Returns the place of one that has a name in common with `host`.
    pub(crate) fn overlapping(&self, host: &str) -> Option<usize> {
        self.covering(host).into_iter().chain(self.covered(host)).min()
    }

    /// Returns the place of one whose names `host` stands for, all of them.
    fn covered(&self, host: &str) -> Option<usize> {
        let letters = letters(host);
        if letters.len() == host.len() {
            return None;
        }
        visits::count(Visited::Written, 1);
        let end = reversed(letters);
        let (found, place) = self.from_the_end.range(end.clone()..).next()?;
        found.starts_with(&end).then_some(*place)
    }
}

impl<H: AsRef<str>> FromIterator<H> for HostIndex {
    fn from_iter<T: IntoIterator<Item = H>>(hosts: T) -> Self {
        let mut index = Self::default();
        for (place, host) in hosts.into_iter().enumerate() {
            index.insert(host.as_ref(), place);
        }
        index
    }
}

fn letters(host: &str) -> &str {
    host.trim_start_matches('*')
}

fn reversed(letters: &str) -> Vec<u8> {
    letters.bytes().rev().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(wide: &str, narrow: &str) -> bool {
        match wide.strip_prefix('*') {
            Some(suffix) => letters(narrow).ends_with(suffix),
            None => wide == narrow,
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_comparing_each_with_each_finds(
            hosts in prop::collection::vec("\\*?[ab]{0,2}(\\.[ab]{1,2}){0,2}", 0..12),
            host in "\\*?[ab]{0,2}(\\.[ab]{1,2}){0,2}",
        ) {
            let index: HostIndex = hosts.iter().collect();
            prop_assert_eq!(index.covering(&host), hosts.iter().position(|wide| covers(wide, &host)));
            let overlaps = |other: &String| covers(other, &host) || covers(&host, other);
            prop_assert_eq!(index.overlapping(&host).is_some(), hosts.iter().any(overlaps));
            prop_assert!(index.overlapping(&host).is_none_or(|place| overlaps(&hosts[place])));
        }
    }
}

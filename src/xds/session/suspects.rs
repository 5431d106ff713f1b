//! Resources among which the one is that a proxy refused without saying which.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use smol_str::SmolStr;

/// Groups of names. Each group is sent alone, the newest first, and halved when it is refused.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// By number: the newer a group, the lower.
    groups: BTreeMap<i64, BTreeSet<SmolStr>>,
    group_of: FxHashMap<SmolStr, i64>,
}

impl Suspects {
    /// Adds the names of a refused response as two groups of half the size.
    pub(super) fn add_halves(&mut self, names: &[SmolStr]) {
        let (one, other) = names.split_at(names.len().div_ceil(2));
        for half in [other, one] {
            self.add(half);
        }
    }

    /// Adds a group that goes before all others.
    pub(super) fn add(&mut self, names: &[SmolStr]) {
        names.iter().for_each(|name| self.remove(name));
        if names.is_empty() {
            return;
        }
        let number = self.groups.first_key_value().map_or(0, |(first, _)| first - 1);
        self.group_of.extend(names.iter().map(|name| (name.clone(), number)));
        self.groups.insert(number, names.iter().cloned().collect());
    }

    /// Removes a name that was sent again, or of which nothing is to be sent any more.
    pub(super) fn remove(&mut self, name: &str) {
        let Some(number) = self.group_of.remove(name) else { return };
        if let Some(group) = self.groups.get_mut(&number) {
            group.remove(name);
            if group.is_empty() {
                self.groups.remove(&number);
            }
        }
    }

    /// Returns whether a name is in one of the groups.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.group_of.contains_key(name)
    }

    /// Returns the groups in the order in which they are sent.
    pub(super) fn groups(&self) -> impl Iterator<Item = &BTreeSet<SmolStr>> {
        self.groups.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(suspects: &Suspects) -> Vec<String> {
        let text = |group: &BTreeSet<SmolStr>| group.iter().map(SmolStr::as_str).collect::<Vec<_>>().join(" ");
        suspects.groups().map(text).collect()
    }

    #[test]
    fn groups_are_halved_and_vanish_with_their_last_name() {
        let names = ["a", "b", "c"].map(SmolStr::from);
        let mut suspects = Suspects::default();
        suspects.add_halves(&names);
        assert_eq!(groups(&suspects), ["a b", "c"]);
        suspects.add_halves(&names[..2]);
        assert_eq!(groups(&suspects), ["a", "b", "c"], "a name is in one group");
        suspects.remove("b");
        assert!(suspects.contains("a") && !suspects.contains("b"));
        assert_eq!(groups(&suspects), ["a", "c"]);
    }
}

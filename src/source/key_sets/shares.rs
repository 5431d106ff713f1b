//! Shares of what all key sets together may take: whoever wants many waits for its own. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use smol_str::SmolStr;

/// Who wants a key set, and how long it may take to fetch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) patience: Duration,
    pub(super) namespaces: BTreeSet<SmolStr>,
}

/// Returns for whom each key set is fetched: of the namespaces that want it, the one that wants the fewest. Nobody is kept waiting by
/// another who wants the same and much else.
pub(super) fn owners(wanted: &BTreeMap<SmolStr, Wish>) -> BTreeMap<&SmolStr, &SmolStr> {
    let mut counts: BTreeMap<&SmolStr, usize> = BTreeMap::new();
    for namespace in wanted.values().flat_map(|wish| &wish.namespaces) {
        *counts.entry(namespace).or_default() += 1;
    }
    let fewest = |wish: &'_ Wish| wish.namespaces.iter().min_by_key(|namespace| counts.get(namespace).copied()).map(ToOwned::to_owned);
    wanted.iter().filter_map(|(url, wish)| Some((url, wish.namespaces.get(&fewest(wish)?)?))).collect()
}

/// Returns which key sets are followed if `most` may be: one of each owner in turn, and of an owner those first that are followed
/// already.
pub(super) fn chosen<'u>(
    owners: &BTreeMap<&'u SmolStr, &SmolStr>,
    is_followed: impl Fn(&str) -> bool,
    most: usize,
) -> BTreeSet<&'u SmolStr> {
    let mut of_each: BTreeMap<&SmolStr, Vec<(bool, &'u SmolStr)>> = BTreeMap::new();
    for (url, owner) in owners {
        of_each.entry(owner).or_default().push((!is_followed(url), url));
    }
    let mut turns: Vec<(usize, &'u SmolStr)> = Vec::with_capacity(owners.len());
    for mut sets in of_each.into_values() {
        sets.sort_unstable();
        turns.extend(sets.into_iter().enumerate().map(|(turn, (_, url))| (turn, url)));
    }
    turns.sort_unstable();
    turns.into_iter().take(most).map(|(_, url)| url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(wishes: &[(&str, &[&str])]) -> BTreeMap<SmolStr, Wish> {
        let wish =
            |namespaces: &[&str]| Wish { namespaces: namespaces.iter().map(|name| SmolStr::from(*name)).collect(), ..Wish::default() };
        wishes.iter().map(|(url, namespaces)| (SmolStr::from(*url), wish(namespaces))).collect()
    }

    fn chosen_of(wishes: &[(&str, &[&str])], followed: &[&str], most: usize) -> Vec<String> {
        let wanted = wanted(wishes);
        chosen(&owners(&wanted), |url| followed.contains(&url), most).into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_set_is_of_the_namespace_that_wants_the_fewest() {
        let wanted = wanted(&[("a", &["crowd", "shop"]), ("b", &["crowd"]), ("c", &["bank", "shop"])]);
        let owners: Vec<(&str, &str)> = owners(&wanted).into_iter().map(|(url, owner)| (url.as_str(), owner.as_str())).collect();
        assert_eq!(owners, [("a", "crowd"), ("b", "crowd"), ("c", "bank")]);
    }

    #[test]
    fn who_wants_many_takes_nobodys_place() {
        let crowd: [(&str, &[&str]); 4] = [("a", &["crowd"]), ("b", &["crowd"]), ("c", &["crowd"]), ("d", &["crowd"])];
        assert_eq!(chosen_of(&crowd, &[], 3), ["a", "b", "c"]);
        assert_eq!(chosen_of(&crowd, &["d", "c"], 3), ["a", "c", "d"], "of its own, those first that are followed");
        let with_shop = [&crowd[..], &[("y", &["shop"][..]), ("z", &["shop"])]].concat();
        assert_eq!(chosen_of(&with_shop, &["a", "b", "c"], 3), ["a", "b", "y"]);
        assert_eq!(chosen_of(&with_shop, &["a", "b", "c"], 100), ["a", "b", "c", "d", "y", "z"]);
    }
}

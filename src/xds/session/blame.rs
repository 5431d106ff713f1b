//! Which resources an error message names.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use rustc_hash::FxHashSet;

use crate::{
    visits::{self, Visited},
    xds::resource::Resource,
};

/// Returns those of `contents` that a proxy's error message names, in their order.
///
/// Each place at which a name may begin in the text is looked up among the sorted names. To search the text for each name would cost
/// names times text, and both may be long.
pub(super) fn blamed(contents: &[Arc<Resource>], error: &str) -> Vec<Arc<Resource>> {
    let text = error.as_bytes();
    let names: BTreeSet<&[u8]> = contents.iter().map(|resource| resource.name.as_bytes()).filter(|name| !name.is_empty()).collect();
    let mut named = FxHashSet::default();
    for start in (0..text.len()).filter(|start| *start == 0 || !is_part_of_name(text[*start - 1])) {
        let rest = &text[start..];
        let ends_here = |name: &&[u8]| rest.get(name.len()).is_none_or(|byte| !is_part_of_name(*byte));
        named.extend(beginnings(&names, rest).filter(ends_here));
    }
    visits::count(Visited::Name, names.len());
    contents.iter().filter(|resource| named.contains(resource.name.as_bytes())).cloned().collect()
}

fn is_part_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-|".contains(&byte)
}

/// Returns the names that a text begins with, the longest first.
fn beginnings<'a>(names: &BTreeSet<&'a [u8]>, text: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut length = Some(text.len());
    std::iter::from_fn(move || {
        while let Some(most) = length {
            visits::count(Visited::Name, 1);
            let found = *names.range::<[u8], _>((Bound::Unbounded, Bound::Included(&text[..most]))).next_back()?;
            let common = found.iter().zip(text).take_while(|(one, other)| one == other).count();
            // Whatever else the text begins with lies within what it has in common with this name.
            length = if common == found.len() { common.checked_sub(1) } else { Some(common) };
            if common == found.len() {
                return Some(found);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{visits::Visits, xds::session::tests::cluster};

    fn found(names: &[&str], error: &str) -> Vec<String> {
        let contents: Vec<_> = names.iter().map(|name| Arc::new(cluster(name, 1))).collect();
        blamed(&contents, error).iter().map(|resource| resource.name.to_string()).collect()
    }

    #[test]
    fn whole_names_are_found_wherever_they_stand() {
        let names = ["a", "ab", "outbound|80||a.shop", "outbound|80||a.shop.svc", "b.c"];
        assert_eq!(
            found(&names, "Error adding/updating cluster(s) outbound|80||a.shop.svc: no"),
            ["outbound|80||a.shop.svc", "outbound|80||a.shop"].into_iter().rev().collect::<Vec<_>>()
        );
        assert_eq!(found(&names, "cluster(s) ab: no, b.c: no"), ["ab", "b.c"]);
        assert_eq!(found(&names, "a"), ["a"]);
        assert_eq!(found(&names, "xa a1 ab_ "), [""; 0]);
        assert_eq!(found(&["ü", ""], "über ü"), ["ü"], "not within a character, and nothing is named by an empty name");
    }

    // As it reads: each name searched for in the text.
    fn searched(names: &[String], error: &str) -> Vec<String> {
        let is_named = |name: &str| {
            (0..error.len()).filter(|start| error.as_bytes()[*start..].starts_with(name.as_bytes())).any(|start| {
                let before = error.as_bytes()[..start].last();
                let after = error.as_bytes()[start + name.len()..].first();
                !before.is_some_and(|byte| is_part_of_name(*byte)) && !after.is_some_and(|byte| is_part_of_name(*byte))
            })
        };
        names.iter().filter(|name| !name.is_empty() && is_named(name)).cloned().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_same_names_are_found_as_by_searching(names in prop::collection::vec("[ab.|]{0,4}", 0..8), error in "[ab.| ]{0,24}") {
            let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&borrowed, &error), searched(&names, &error));
        }
    }

    #[test]
    fn twice_the_names_and_twice_the_text_cost_twice() {
        let cost = |size: usize| {
            let names: Vec<String> = (0..size).map(|n| format!("outbound|80||s{n}.shop.svc")).collect();
            let contents: Vec<_> = names.iter().map(|name| Arc::new(cluster(name, 1))).collect();
            let text = "outbound|80||s1.shop.svc: no; ".repeat(size);
            let before = Visits::of_this_thread();
            assert_eq!(blamed(&contents, &text).len(), 1);
            (Visits::of_this_thread() - before).names
        };
        let (small, large) = (cost(200), cost(400));
        assert!(large > small && large * 10 < small * 25, "{small} and {large}");
    }
}

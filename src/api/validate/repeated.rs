//! Finds what a list has twice, without comparing each element with each.

use std::{collections::HashSet, hash::Hash};

use crate::visits::{Visit, Visited};

/// Returns for each element whether an equal one comes before it.
pub(super) fn repeated<T: Eq + Hash>(elements: impl IntoIterator<Item = T>) -> impl Iterator<Item = bool> {
    let mut seen = HashSet::new();
    elements.into_iter().visiting(Visited::Written).map(move |element| !seen.insert(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_not_repeated() {
        assert_eq!(repeated(["a", "b", "a", "a"]).collect::<Vec<_>>(), [false, false, true, true]);
    }
}

//! Which providers log, by all that counts for a proxy. Later objects override earlier ones as istiod has it, in its order and with its
//! edges: a filter counts only beside the providers that it names, and what an entry inherits is what the entry before it had.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::Side;
use crate::api::istio::AccessLogging;

/// What becomes of a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Logging<'a> {
    /// Whether it is told not to log.
    pub(super) disabled: bool,
    /// Which entries it logs; `None`: all.
    pub(super) filter: Option<&'a SmolStr>,
}

/// Merges the entries of the objects that have some, the widest first, over the default providers.
pub(super) fn merged<'a>(defaults: &'a [SmolStr], objects: &[&'a [AccessLogging]], side: Side) -> BTreeMap<&'a SmolStr, Logging<'a>> {
    if objects.is_empty() {
        return defaults.iter().map(|name| (name, Logging::default())).collect();
    }
    let (in_scope, filters) = named(defaults, objects, side);
    let mut merged = BTreeMap::new();
    let mut inherited: Vec<&SmolStr> = defaults.iter().collect();
    for entry in objects.iter().flat_map(|entries| entries.iter()) {
        if !entry.providers.is_empty() {
            inherited = entry.providers.iter().collect();
        }
        if !side.is_meant(entry.mode) {
            continue;
        }
        for name in inherited.iter().copied().filter(|name| in_scope.contains(name)) {
            let filter = filters.get(name).copied().flatten();
            merged
                .insert(name, if entry.disabled { Logging { disabled: true, filter: None } } else { Logging { disabled: false, filter } });
        }
    }
    merged
}

type Filters<'a> = BTreeMap<&'a SmolStr, Option<&'a SmolStr>>;

/// Returns the providers that the last object which names any does name, and the last filter beside each.
fn named<'a>(defaults: &'a [SmolStr], objects: &[&'a [AccessLogging]], side: Side) -> (BTreeSet<&'a SmolStr>, Filters<'a>) {
    let mut in_scope: BTreeSet<&SmolStr> = defaults.iter().collect();
    let mut filters = Filters::new();
    for entries in objects {
        let meant: Vec<&AccessLogging> = entries.iter().filter(|entry| side.is_meant(entry.mode)).collect();
        filters.extend(meant.iter().flat_map(|entry| entry.providers.iter().map(|name| (name, entry.filter.as_ref()))));
        let named: BTreeSet<&SmolStr> = meant.iter().flat_map(|entry| &entry.providers).collect();
        if !named.is_empty() {
            in_scope = named;
        }
    }
    (in_scope, filters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::istio::WorkloadMode;

    fn entry(providers: &[&str], mode: WorkloadMode, disabled: bool, filter: Option<&str>) -> AccessLogging {
        AccessLogging { mode, providers: providers.iter().map(SmolStr::new).collect(), disabled, filter: filter.map(SmolStr::new) }
    }

    fn shown(defaults: &[&str], objects: &[Vec<AccessLogging>], side: Side) -> Vec<String> {
        let defaults: Vec<SmolStr> = defaults.iter().map(SmolStr::new).collect();
        let objects: Vec<&[AccessLogging]> = objects.iter().map(Vec::as_slice).collect();
        let show = |(name, logging): (&SmolStr, Logging<'_>)| match logging {
            Logging { disabled: true, .. } => format!("{name} off"),
            Logging { filter: Some(filter), .. } => format!("{name} if {filter}"),
            Logging { filter: None, .. } => name.to_string(),
        };
        merged(&defaults, &objects, side).into_iter().map(show).collect()
    }

    use Side::{Client, Server};
    use WorkloadMode::ClientAndServer as Both;

    #[test]
    fn defaults_count_where_nothing_is_said() {
        assert_eq!(shown(&["a", "b"], &[], Client), ["a", "b"]);
        assert_eq!(shown(&["a"], &[vec![entry(&[], Both, false, None)]], Client), ["a"]);
        assert_eq!(shown(&[], &[vec![entry(&[], Both, false, None)]], Client), [""; 0]);
    }

    #[test]
    fn narrower_objects_replace_providers() {
        let objects = [vec![entry(&["a"], Both, false, None)], vec![entry(&["b"], Both, false, None)]];
        assert_eq!(shown(&["c"], &objects, Client), ["b"]);
        let objects = [vec![entry(&["a"], Both, false, None)], vec![entry(&[], Both, true, None)]];
        assert_eq!(shown(&["c"], &objects, Client), ["a off"]);
    }

    #[test]
    fn a_mode_leaves_the_other_side_as_it_was() {
        let objects = [vec![entry(&["a"], Both, false, None)], vec![entry(&["b"], WorkloadMode::Server, false, None)]];
        assert_eq!(shown(&[], &objects, Client), ["a"]);
        assert_eq!(shown(&[], &objects, Server), ["b"]);
        let off = [vec![entry(&["a"], Both, false, None)], vec![entry(&["a"], WorkloadMode::Client, true, None)]];
        assert_eq!(shown(&[], &off, Client), ["a off"]);
        assert_eq!(shown(&[], &off, Server), ["a"]);
    }

    #[test]
    fn a_filter_counts_beside_the_providers_that_it_names() {
        let objects = [vec![entry(&["a", "b"], Both, false, None)], vec![entry(&["a"], Both, false, Some("f"))]];
        assert_eq!(shown(&[], &objects, Client), ["a if f"]);
        // As in istiod: without providers it says nothing about those that are inherited.
        let inherited = [vec![entry(&["a"], Both, false, None)], vec![entry(&[], Both, false, Some("f"))]];
        assert_eq!(shown(&[], &inherited, Client), ["a"]);
        // The last filter that names a provider counts, also where an entry before it comes first.
        let twice = [vec![entry(&["a"], Both, false, Some("f")), entry(&["a"], Both, false, Some("g"))]];
        assert_eq!(shown(&[], &twice, Client), ["a if g"]);
    }

    #[test]
    fn what_an_entry_inherits_is_what_the_one_before_it_had() {
        let objects = [vec![entry(&["a", "b"], Both, false, None), entry(&["b"], Both, true, None), entry(&[], Both, false, None)]];
        assert_eq!(shown(&[], &objects, Client), ["a", "b"]);
        let by_mode =
            [vec![entry(&["a", "b"], Both, false, None), entry(&["b"], WorkloadMode::Server, false, None), entry(&[], Both, true, None)]];
        assert_eq!(shown(&[], &by_mode, Client), ["a", "b off"]);
    }
}

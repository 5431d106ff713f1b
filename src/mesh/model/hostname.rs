//! A DNS name of the mesh, perhaps a wildcard.

use std::{cmp::Reverse, fmt};

use imbl::OrdMap;
use smol_str::{SmolStr, format_smolstr};

/// So many wildcards are rather looked at one by one.
const FEW_WILDCARDS: usize = 32;

/// A DNS name, perhaps with a leading wildcard (`*.example.com`, `*-v1.example.com`, `*`), in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(SmolStr);

impl Hostname {
    /// Makes a hostname of any text, in lower case.
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        if text.bytes().any(|b| b.is_ascii_uppercase()) { Self(text.to_ascii_lowercase().into()) } else { Self(text.into()) }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text, shared.
    pub fn text(&self) -> &SmolStr {
        &self.0
    }

    /// Returns whether it begins with `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Returns whether every name that `other` stands for is one that `self` stands for (`*.a.b` covers `x.a.b` and `*.x.a.b`).
    /// A wildcard may begin within a label: `*-v1.a.b` covers `x-v1.a.b`.
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => other.0.strip_prefix('*').unwrap_or(&other.0).ends_with(suffix),
            None => self == other,
        }
    }

    /// Returns the entries of a table whose hosts cover this one, the most specific first: its own, then those of
    /// wildcards from the longest. It looks at the table's wildcards alone, which sort before all names, and where they are many
    /// only at those that cover it.
    pub fn covering<'a, V: Clone>(&self, table: &'a OrdMap<Self, V>) -> impl Iterator<Item = (&'a Self, &'a V)> + use<'a, V> {
        let all = || table.iter().take_while(|(wildcard, _)| wildcard.is_wildcard());
        let mut wildcards: Vec<(&Self, &V)> = Vec::new();
        if table.get_min().is_some_and(|(first, _)| first.is_wildcard()) {
            if all().nth(FEW_WILDCARDS).is_some() {
                wildcards.extend(self.wildcards().filter_map(|wildcard| table.get_key_value(&wildcard)));
            } else {
                wildcards.extend(all().filter(|(wildcard, _)| *wildcard != self && wildcard.covers(self)));
                wildcards.sort_by_key(|(wildcard, _)| Reverse(wildcard.as_str().len()));
            }
        }
        table.get_key_value(self).into_iter().chain(wildcards)
    }

    /// Returns the wildcards that cover it but for itself, from the longest.
    fn wildcards(&self) -> impl Iterator<Item = Self> + use<'_> {
        let letters = self.0.strip_prefix('*').unwrap_or(&self.0);
        let ends = letters.char_indices().map(|(at, _)| &letters[at..]).chain([""]);
        ends.map(|end| Self(format_smolstr!("*{end}"))).filter(move |wildcard| wildcard != self)
    }

    /// Returns whether there is a name that both stand for.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_names_and_narrower_wildcards() {
        let wide = Hostname::new("*.example.com");
        assert!(wide.covers(&Hostname::new("a.example.com")));
        assert!(wide.covers(&Hostname::new("*.a.example.com")));
        assert!(!wide.covers(&Hostname::new("example.com")));
        assert!(!Hostname::new("a.example.com").covers(&wide));
        assert!(Hostname::new("*").covers(&wide));
        let within = Hostname::new("*-v1.example.com");
        assert!(within.covers(&Hostname::new("a-v1.example.com")) && within.covers(&Hostname::new("*.a-v1.example.com")));
        assert!(!within.covers(&Hostname::new("v1.example.com")) && !within.covers(&wide));
        assert!(Hostname::new("a.example.com").overlaps(&wide));
    }

    #[test]
    fn hosts_are_covered_by_themselves_and_by_wildcards_from_the_longest() {
        let table = |hosts: &[&str]| -> OrdMap<Hostname, ()> { hosts.iter().map(|host| (Hostname::new(host), ())).collect() };
        let hosts = table(&["*", "*.b.c", "*.c", "*.x.c", "*1.b.c", "*c", "a-1.b.c", "b.c", "x.c"]);
        let covering = |host: &str| Hostname::new(host).covering(&hosts).map(|(host, ())| host.as_str()).collect::<Vec<_>>();
        assert_eq!(covering("a-1.b.c"), ["a-1.b.c", "*1.b.c", "*.b.c", "*.c", "*c", "*"]);
        assert_eq!(covering("*.b.c"), ["*.b.c", "*.c", "*c", "*"]);
        assert_eq!(covering("*.1.b.c"), ["*1.b.c", "*.b.c", "*.c", "*c", "*"]);
        assert_eq!(covering("*"), ["*"]);
        let many: Vec<String> = (0..FEW_WILDCARDS).map(|at| format!("*.n{at}.example.com")).collect();
        let among_many = |host: &str| {
            let all: OrdMap<Hostname, ()> = hosts.keys().cloned().chain(many.iter().map(Hostname::new)).map(|host| (host, ())).collect();
            Hostname::new(host).covering(&all).map(|(host, ())| host.to_string()).collect::<Vec<_>>()
        };
        for host in ["a-1.b.c", "*.b.c", "*.1.b.c", "*", "x.c", "x.n1.example.com"] {
            let expected = covering(host).into_iter().map(ToOwned::to_owned);
            let expected = (host.starts_with("x.n1")).then(|| "*.n1.example.com".to_owned()).into_iter().chain(expected);
            assert_eq!(among_many(host), expected.collect::<Vec<_>>(), "{host}");
        }
        assert_eq!(Hostname::new("x.c").covering(&table(&["a.c", "x.c"])).count(), 1);
        assert_eq!(Hostname::new("x.c").covering(&table(&[])).count(), 0);
    }
}

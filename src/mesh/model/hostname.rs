//! A DNS name of the mesh, perhaps a wildcard.

use std::fmt;

use smol_str::{SmolStr, format_smolstr};

/// A DNS name, perhaps with a leading wildcard (`*.example.com`, `*`), in lower case.
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

    /// Returns whether it is `*` or `*.something`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Returns whether every name that `other` stands for is one that `self` stands for (`*.a.b` covers `x.a.b` and `*.x.a.b`).
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => other.0.strip_prefix('*').unwrap_or(&other.0).ends_with(suffix),
            None => self == other,
        }
    }

    /// Returns the hosts that cover this one: itself, then the wildcards that begin with a whole label, the longest
    /// first. Looking each of them up replaces a walk over all hosts of a table.
    pub fn covering(&self) -> impl Iterator<Item = Self> {
        let text = self.as_str();
        let wildcards = text.match_indices('.').map(|(at, _)| format_smolstr!("*{}", &text[at..])).filter(move |wildcard| wildcard != text);
        std::iter::once(self.clone()).chain(wildcards.map(Self)).chain((text != "*").then(|| Self("*".into())))
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
        assert!(Hostname::new("a.example.com").overlaps(&wide));
    }

    #[test]
    fn hosts_are_covered_by_themselves_and_by_wildcards_from_the_longest() {
        let covering = |host: &str| Hostname::new(host).covering().map(|host| host.to_string()).collect::<Vec<_>>();
        assert_eq!(covering("a.b.c"), ["a.b.c", "*.b.c", "*.c", "*"]);
        assert_eq!(covering("*.b.c"), ["*.b.c", "*.c", "*"]);
        assert_eq!(covering("*"), ["*"]);
    }
}

//! `proxyStatsMatcher`: which of Envoy's own statistics a proxy keeps.

use serde_json::{Value, json};
use smol_str::SmolStr;

/// What is kept beside what is always kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsMatcher {
    /// `inclusionPrefixes`
    pub prefixes: Vec<SmolStr>,
    /// `inclusionSuffixes`
    pub suffixes: Vec<SmolStr>,
    /// `inclusionRegexps`, in RE2's syntax.
    pub regexps: Vec<SmolStr>,
}

// === impl StatsMatcher ===

impl StatsMatcher {
    /// Returns the lists that are not empty, as ProxyConfig has them.
    pub(super) fn to_json(&self) -> Value {
        let lists = [("inclusionPrefixes", &self.prefixes), ("inclusionSuffixes", &self.suffixes), ("inclusionRegexps", &self.regexps)];
        let said = lists.into_iter().filter(|(_, list)| !list.is_empty());
        Value::Object(said.map(|(name, list)| (name.to_owned(), json!(list))).collect())
    }
}

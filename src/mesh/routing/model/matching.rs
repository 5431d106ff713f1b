//! What requests and connections a rule is for.

use smol_str::SmolStr;

use super::GatewayRef;
use crate::mesh::model::{Hostname, Labels};

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole text.
    Exact(SmolStr),
    /// Its beginning.
    Prefix(SmolStr),
    /// The whole text, by a regular expression of RE2.
    Regex(SmolStr),
    /// Any text, if there is one.
    Present,
}

/// What a request must be like: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// The match's name, which is appended to the rule's.
    pub name: SmolStr,
    /// `:path` without its query.
    pub path: Option<StringMatch>,
    /// The path is compared without regard to case.
    pub ignore_path_case: bool,
    /// `:scheme`
    pub scheme: Option<StringMatch>,
    /// `:method`
    pub method: Option<StringMatch>,
    /// `:authority`
    pub authority: Option<StringMatch>,
    /// Other headers, sorted by name; of one name the one that must match first.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, sorted by name.
    pub query_parameters: Vec<QueryParameterMatch>,
    /// The listener's port (at gateways the server's).
    pub port: Option<u16>,
    /// Labels that the client's workload must have.
    pub source_labels: Labels,
    /// The client's namespace.
    pub source_namespace: Option<SmolStr>,
    /// Where the match counts; empty: wherever the set is attached.
    pub gateways: Vec<GatewayRef>,
    /// Prefix of the route's statistics; empty: none.
    pub stat_prefix: SmolStr,
    /// Claims of the request's token, sorted by the header that stands for them; of one the one that must match first. They are known at
    /// gateways only.
    pub claims: Vec<ClaimMatch>,
}

/// What a claim of a request's token must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMatch {
    /// The header that stands for it, as written.
    pub name: SmolStr,
    /// The claim's name after those of the claims that it is within. Never empty.
    pub path: Vec<SmolStr>,
    /// Its value, or one of them if it is a list.
    pub value: StringMatch,
    /// The claim must not be so.
    pub inverted: bool,
}

/// What a header must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The header.
    pub name: SmolStr,
    /// Its value.
    pub value: StringMatch,
    /// The header must not be so.
    pub inverted: bool,
}

/// What a query parameter must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryParameterMatch {
    /// The parameter.
    pub name: SmolStr,
    /// Its value.
    pub value: StringMatch,
}

/// What a connection must be like: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L4Match {
    /// SNI names (TLS only).
    pub sni_hosts: Vec<Hostname>,
    /// Networks of the address that the client wanted.
    pub destination_subnets: Vec<SmolStr>,
    /// The listener's port (at gateways the server's).
    pub port: Option<u16>,
    /// Labels that the client's workload must have.
    pub source_labels: Labels,
    /// The client's namespace.
    pub source_namespace: Option<SmolStr>,
    /// Where the match counts; empty: wherever the set is attached.
    pub gateways: Vec<GatewayRef>,
}

impl HttpMatch {
    /// Returns whether every request matches that reaches the routes at all. What routes are in which order, what is left out
    /// behind a match, and what is said about it all follow from this one judgement.
    pub fn takes_everything(&self) -> bool {
        let others = self.scheme.is_some() || self.method.is_some() || self.authority.is_some();
        let any_path = self.path.as_ref().is_none_or(takes_every_path);
        any_path && !others && self.claims.is_empty() && self.headers.is_empty() && self.query_parameters.is_empty()
    }

    /// Returns whether it asks nothing of the listener or the client: where it is used at all, it holds.
    pub fn holds_everywhere(&self) -> bool {
        self.port.is_none() && self.gateways.is_empty() && self.source_labels.is_empty() && self.source_namespace.is_none()
    }
}

impl L4Match {
    /// Returns whether it asks of the listener and the client for no more than another does: where that one is used, so is it.
    pub fn asks_no_more_than(&self, other: &Self) -> bool {
        let labels = || self.source_labels.iter().all(|(key, value)| other.source_labels.get(key) == Some(value));
        let gateways = || !other.gateways.is_empty() && other.gateways.iter().all(|of| self.gateways.contains(of));
        (self.port.is_none() || self.port == other.port)
            && (self.source_namespace.is_none() || self.source_namespace == other.source_namespace)
            && (self.gateways.is_empty() || gateways())
            && labels()
    }
}

/// Returns whether every path matches. Paths begin with a slash; of the expressions that match them all, these are the ways in which
/// people write it.
fn takes_every_path(path: &StringMatch) -> bool {
    match path {
        StringMatch::Present => true,
        StringMatch::Prefix(prefix) => matches!(prefix.as_str(), "" | "/"),
        StringMatch::Regex(regex) => {
            let anchored = regex.strip_prefix('^').unwrap_or(regex);
            let inner = anchored.strip_suffix('$').unwrap_or(anchored);
            let inner = inner.strip_prefix("/?").or_else(|| inner.strip_prefix('/')).unwrap_or(inner);
            let inner = inner.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(inner);
            // `/.+` needs something behind the slash.
            inner == ".*" || (inner == ".+" && !anchored.starts_with('/'))
        }
        StringMatch::Exact(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_takes_everything_however_that_is_written() {
        let of = |path: StringMatch| HttpMatch { path: Some(path), ..HttpMatch::default() };
        assert!(HttpMatch::default().takes_everything());
        for prefix in ["", "/"] {
            assert!(of(StringMatch::Prefix(prefix.into())).takes_everything(), "{prefix}");
        }
        for regex in [".*", "/.*", "^.*$", "^/.*", "(.*)", "/(.*)", "/?.*", ".+"] {
            assert!(of(StringMatch::Regex(regex.into())).takes_everything(), "{regex}");
        }
        for regex in ["/a.*", ".*a", "/.+", "/[^/]*", "(.*)/(.*)", "\\/.*x", "/"] {
            assert!(!of(StringMatch::Regex(regex.into())).takes_everything(), "{regex}");
        }
        assert!(!of(StringMatch::Exact("/".into())).takes_everything());
        let method = HttpMatch { method: Some(StringMatch::Exact("GET".into())), ..HttpMatch::default() };
        assert!(!method.takes_everything());
    }
}

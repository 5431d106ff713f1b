//! `http[]` of a VirtualService. Values that hold no names (matches of texts, retries, faults, headers, …) are the
//! same types in the mesh's route model.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::{Destination, RouteDestination};
use crate::api::Labels;

/// `http[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRoute {
    /// `name`
    pub name: SmolStr,
    /// `match`: one of these must match; everything matches if there are none.
    pub matches: Vec<HttpMatch>,
    /// `route`
    pub route: Vec<RouteDestination>,
    /// `redirect`
    pub redirect: Option<Redirect>,
    /// `directResponse`
    pub direct_response: Option<DirectResponse>,
    /// `delegate`
    pub delegate: Option<Delegate>,
    /// `rewrite`
    pub rewrite: Option<Rewrite>,
    /// `timeout`; 0 disables it.
    pub timeout: Option<Duration>,
    /// `retries`
    pub retries: Option<RetryPolicy>,
    /// `fault`
    pub fault: Option<Fault>,
    /// `mirror` with `mirrorPercentage` (or the old `mirrorPercent`), or `mirrors`; a share of zero is kept.
    pub mirrors: Vec<HttpMirror>,
    /// `corsPolicy`
    pub cors: Option<CorsPolicy>,
    /// `headers`
    pub headers: Option<HeaderOperations>,
}

/// `http[].match[]`: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// `name`
    pub name: SmolStr,
    /// `uri`; `None` for an empty matcher.
    pub uri: Option<StringMatch>,
    /// `ignoreUriCase`
    pub ignore_uri_case: bool,
    /// `scheme`
    pub scheme: Option<StringMatch>,
    /// `method`
    pub method: Option<StringMatch>,
    /// `authority`
    pub authority: Option<StringMatch>,
    /// `headers`, sorted by name.
    pub headers: Vec<(SmolStr, StringMatch)>,
    /// `withoutHeaders`, sorted by name.
    pub without_headers: Vec<(SmolStr, StringMatch)>,
    /// `queryParams`, sorted by name.
    pub query_params: Vec<(SmolStr, StringMatch)>,
    /// `port` of the listener, or of the server at gateways.
    pub port: Option<u16>,
    /// `sourceLabels`
    pub source_labels: Labels,
    /// `sourceNamespace`
    pub source_namespace: Option<SmolStr>,
    /// `gateways`, as written; empty for those of the object.
    pub gateways: Vec<SmolStr>,
    /// `statPrefix`
    pub stat_prefix: SmolStr,
}

/// `directResponse`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`
    pub status: u32,
    /// `body.string`, or `body.bytes` decoded; empty for none.
    pub body: Arc<[u8]>,
}

/// `delegate`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delegate {
    /// `name`
    pub name: SmolStr,
    /// `namespace`; empty for that of the object.
    pub namespace: SmolStr,
}

/// `mirror` or `mirrors[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpMirror {
    /// The path of the destination within the route: `mirror`, or `mirrors[0].destination`.
    pub field: SmolStr,
    /// `destination`: where the copies go.
    pub destination: Destination,
    /// The share of requests that is copied; all if absent.
    pub share: Share,
}

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The whole text is equal.
    Exact(SmolStr),
    /// The text begins with this.
    Prefix(SmolStr),
    /// The whole text matches this RE2 expression.
    Regex(SmolStr),
    /// The text is present with any value (an empty matcher).
    Present,
}

/// `redirect:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The new path; empty to keep it. `%PREFIX()%…` replaces the matched prefix (Gateway API).
    pub uri: SmolStr,
    /// The new authority; empty to keep it.
    pub authority: SmolStr,
    /// The new scheme; empty to keep it.
    pub scheme: SmolStr,
    /// The port in the new location.
    pub port: Option<RedirectPort>,
    /// `redirectCode`; 301 if absent.
    pub code: RedirectCode,
}

/// The status codes that Envoy can redirect with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectCode {
    /// 301
    #[default]
    MovedPermanently,
    /// 302
    Found,
    /// 303
    SeeOther,
    /// 307
    TemporaryRedirect,
    /// 308
    PermanentRedirect,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// This port.
    Number(u16),
    /// The default port of the new scheme.
    FromProtocolDefault,
    /// The port of the listener, or of the server at gateways.
    FromRequestPort,
}

/// `rewrite:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces the path, or its matched prefix.
    pub uri: SmolStr,
    /// Replaces the authority.
    pub authority: SmolStr,
    /// `(match, rewrite)` of `uriRegexRewrite`.
    pub uri_regex: Option<(SmolStr, SmolStr)>,
}

/// `retries:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// `attempts`; 0 or less for no retries.
    pub attempts: i32,
    /// `perTryTimeout`
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`, separated by commas; empty for the default conditions.
    pub retry_on: SmolStr,
    /// `retryRemoteLocalities`
    pub retry_remote_localities: Option<bool>,
    /// `retryIgnorePreviousHosts`; true if absent.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// `backoff`
    pub backoff: Option<Duration>,
}

/// `fault:`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// `delay`: the delay and the share of requests.
    pub delay: Option<(Duration, Share)>,
    /// `abort`: the status and the share of requests.
    pub abort: Option<(AbortStatus, Share)>,
}

/// The answer to an aborted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status.
    Http(u32),
    /// A gRPC status code.
    Grpc(u32),
}

/// A share of requests, with the denominator that Envoy is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// The numerator.
    pub numerator: u32,
    /// Whether the denominator is a million instead of a hundred.
    pub of_million: bool,
}

/// `corsPolicy:`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsPolicy {
    /// Allowed origins.
    pub allow_origins: Vec<StringMatch>,
    /// Allowed methods.
    pub allow_methods: Vec<SmolStr>,
    /// Allowed headers.
    pub allow_headers: Vec<SmolStr>,
    /// Exposed headers.
    pub expose_headers: Vec<SmolStr>,
    /// `maxAge`
    pub max_age: Option<Duration>,
    /// `allowCredentials`
    pub allow_credentials: Option<bool>,
    /// `unmatchedPreflights`: false for `IGNORE`, true for `FORWARD` (the default).
    pub forward_unmatched_preflights: bool,
}

/// `headers:`, with lists sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOperations {
    /// Changes of requests to the destination.
    pub request: HeaderChanges,
    /// Changes of its responses.
    pub response: HeaderChanges,
}

/// Changes of headers in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Headers that are overwritten or added.
    pub set: Vec<(SmolStr, SmolStr)>,
    /// Headers that are appended.
    pub add: Vec<(SmolStr, SmolStr)>,
    /// Headers that are removed, in the order written.
    pub remove: Vec<SmolStr>,
}

/// What the name of a matched header begins with that stands for a claim of the request's token.
const CLAIMS: &str = "@request.auth.claims";

/// Returns whether a matched header stands for a claim of the request's token (`@request.auth.claims.group`).
pub fn is_claim(header: &str) -> bool {
    header.get(..CLAIMS.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(CLAIMS))
}

/// Returns the names by which the claim is found that a matched header stands for: `@request.auth.claims.group.id` and
/// `@request.auth.claims[group][id]` are claim `id` within claim `group`. `None`: it names none.
pub fn claim_path(header: &str) -> Option<Vec<SmolStr>> {
    let named = header.get(CLAIMS.len()..).filter(|_| is_claim(header))?;
    let within = |named: &str, separator: &str| -> Vec<SmolStr> { named.split(separator).map(SmolStr::from).collect() };
    let path = match (named.strip_prefix('.'), named.strip_prefix('[').and_then(|named| named.strip_suffix(']'))) {
        (Some(named), _) => within(named, "."),
        (None, Some(named)) => within(named, "]["),
        (None, None) => return None,
    };
    path.iter().all(|name| !name.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_in_two_ways() {
        let path = |header: &str| claim_path(header).map(|path| path.join("/"));
        assert_eq!(path("@request.auth.claims.group").as_deref(), Some("group"));
        assert_eq!(path("@Request.Auth.Claims.group.id").as_deref(), Some("group/id"));
        assert_eq!(path("@request.auth.claims[group]").as_deref(), Some("group"));
        assert_eq!(path("@request.auth.claims[a.b/c][id]").as_deref(), Some("a.b/c/id"));
        for none in ["", ".", "[]", "[a", "a]", "group", ".a..b", ".a.", "[a][]", "[][a]"] {
            assert_eq!(path(&format!("@request.auth.claims{none}")), None, "{none}");
        }
        assert_eq!(path("x-user"), None);
    }
}

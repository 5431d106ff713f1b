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
    /// `match`: any of these; none: everything matches.
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
    /// `timeout`; zero is written to switch it off.
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
    /// `uri`; an empty matcher is left out.
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
    /// `port` of the listener (at gateways: of the server).
    pub port: Option<u16>,
    /// `sourceLabels`
    pub source_labels: Labels,
    /// `sourceNamespace`
    pub source_namespace: Option<SmolStr>,
    /// `gateways`, as written; empty: the object's.
    pub gateways: Vec<SmolStr>,
    /// `statPrefix`
    pub stat_prefix: SmolStr,
}

/// `directResponse`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`
    pub status: u32,
    /// `body.string` or `body.bytes`, decoded; empty: none.
    pub body: Arc<[u8]>,
}

/// `delegate`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delegate {
    /// `name`
    pub name: SmolStr,
    /// `namespace`; empty: that of the object.
    pub namespace: SmolStr,
}

/// `mirror` or `mirrors[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpMirror {
    /// Where copies go.
    pub destination: Destination,
    /// How many; not written: all.
    pub share: Share,
}

/// How a text is matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The whole text.
    Exact(SmolStr),
    /// Its beginning.
    Prefix(SmolStr),
    /// RE2, the whole text.
    Regex(SmolStr),
    /// It is there, with any value (an empty matcher).
    Present,
}

/// `redirect:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// New path; empty: kept. `%PREFIX()%…` replaces the matched prefix (Gateway API).
    pub uri: SmolStr,
    /// New authority; empty: kept.
    pub authority: SmolStr,
    /// New scheme; empty: kept.
    pub scheme: SmolStr,
    /// Which port the new location names.
    pub port: Option<RedirectPort>,
    /// 301 when not written.
    pub code: u32,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// This number.
    Number(u16),
    /// The default of the (new) scheme.
    FromProtocolDefault,
    /// The port of the listener (at gateways: of the server).
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
    /// 0 or less: no retries at all.
    pub attempts: i32,
    /// `perTryTimeout`
    pub per_try_timeout: Option<Duration>,
    /// Comma-separated; empty: the default conditions.
    pub retry_on: SmolStr,
    /// `retryRemoteLocalities`
    pub retry_remote_localities: Option<bool>,
    /// `retryIgnorePreviousHosts`; true when not written.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// `backoff`
    pub backoff: Option<Duration>,
}

/// `fault:`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// Delay and how often.
    pub delay: Option<(Duration, Share)>,
    /// Abort and how often.
    pub abort: Option<(AbortStatus, Share)>,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status.
    Http(u32),
    /// A gRPC status code.
    Grpc(u32),
}

/// A share of requests, with the denominator that Envoy is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// How many of the denominator.
    pub numerator: u32,
    /// True: of a million; false: of a hundred.
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
    /// `unmatchedPreflights: IGNORE` is false; forward (the default) is true.
    pub forward_unmatched_preflights: bool,
}

/// `headers:`; lists sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOperations {
    /// On the way to the destination.
    pub request: HeaderChanges,
    /// On the way back.
    pub response: HeaderChanges,
}

/// Changes of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Overwrite or add.
    pub set: Vec<(SmolStr, SmolStr)>,
    /// Append.
    pub add: Vec<(SmolStr, SmolStr)>,
    /// Remove, in the order written.
    pub remove: Vec<SmolStr>,
}

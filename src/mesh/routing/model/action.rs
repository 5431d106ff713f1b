//! What is done with requests and connections, and how they are changed on the way.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::source::RuleSource;
use crate::mesh::model::Hostname;

/// What a rule does with requests.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction {
    /// Sends them to one of these, by weight.
    Forward(Vec<WeightedDestination>),
    /// Answers them with a redirect.
    Redirect(Redirect),
    /// Answers them itself.
    DirectResponse {
        /// HTTP status code.
        status: u32,
        /// Body; empty for none.
        body: Arc<[u8]>,
    },
}

/// One destination of several.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedDestination {
    /// Where to.
    pub destination: Destination,
    /// Its part of all weights, as written; a single destination needs none.
    pub weight: u32,
    /// Changes of headers for this destination alone.
    pub headers: HeaderModifications,
}

/// A service, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Fully qualified.
    pub host: Hostname,
    /// Subset of the service; empty: all of it.
    pub subset: SmolStr,
    /// `None`: selection infers it.
    pub port: Option<u16>,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where its destination was written: a delegate's rule may take over the root's mirrors.
    pub source: RuleSource,
    /// Where to.
    pub destination: Destination,
    /// Of how many requests.
    pub share: Share,
}

/// A new location for the client; `None` in a part keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// New path. `%PREFIX()%…` replaces the matched prefix.
    pub path: Option<SmolStr>,
    /// New authority.
    pub authority: Option<SmolStr>,
    /// New scheme.
    pub scheme: Option<SmolStr>,
    /// Which port the new location names.
    pub port: Option<RedirectPort>,
    /// HTTP status code.
    pub code: RedirectCode,
}

/// The status code of a redirect: one of those that Envoy has.
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
    /// This number.
    Number(u16),
    /// The default of the (new) scheme.
    FromProtocolDefault,
    /// The port of the listener (at gateways of the server).
    FromRequestPort,
}

/// How a request is changed before it is forwarded; `None` in a part keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathModifier>,
    /// The new authority.
    pub authority: Option<SmolStr>,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// Replaces the prefix that matched, or all of a path that matched as a whole.
    ReplacePrefix(SmolStr),
    /// Replaces what an expression finds.
    ReplaceRegex {
        /// The expression, of RE2.
        pattern: SmolStr,
        /// What it is replaced by; `\1` stands for the first group.
        substitution: SmolStr,
    },
}

/// How often and when a failed request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often at most; 0: never.
    pub attempts: u32,
    /// Timeout of each try.
    pub per_try_timeout: Option<Duration>,
    /// `None`: the default conditions.
    pub conditions: Option<RetryConditions>,
    /// Tries also localities that were not tried yet.
    pub remote_localities: bool,
    /// Tries no host twice; `None`: the default, which depends on the load balancer.
    pub ignore_previous_hosts: Option<bool>,
    /// Base of the waiting time between tries.
    pub backoff: Option<Duration>,
}

/// What counts as a failure that is worth another try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryConditions {
    /// Envoy's names of conditions, in the order written.
    pub names: Vec<SmolStr>,
    /// HTTP status codes, in the order written.
    pub status_codes: Vec<u32>,
}

/// Faults that are injected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Holds requests up.
    pub delay: Option<Delay>,
    /// Answers requests with an error.
    pub abort: Option<Abort>,
}

/// A delay that is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// How long.
    pub duration: Duration,
    /// Of how many requests.
    pub share: Share,
}

/// An error that is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Which.
    pub status: AbortStatus,
    /// Of how many requests.
    pub share: Share,
}

/// What an aborted request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status code.
    Http(u32),
    /// A gRPC status code.
    Grpc(u32),
}

/// A share of all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many of the denominator.
    pub numerator: u32,
    /// Of how many.
    pub denominator: Denominator,
}

/// The denominator of a [`Share`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denominator {
    /// Percent.
    Hundred,
    /// Parts per million.
    Million,
}

/// Which other sites' pages may send requests (CORS).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsPolicy {
    /// `Access-Control-Allow-Origin`
    pub allow_origins: Vec<super::StringMatch>,
    /// `Access-Control-Allow-Methods`
    pub allow_methods: Vec<SmolStr>,
    /// `Access-Control-Allow-Headers`
    pub allow_headers: Vec<SmolStr>,
    /// `Access-Control-Expose-Headers`
    pub expose_headers: Vec<SmolStr>,
    /// `Access-Control-Max-Age`
    pub max_age: Option<Duration>,
    /// `Access-Control-Allow-Credentials`
    pub allow_credentials: Option<bool>,
    /// Preflight requests from other origins are forwarded.
    pub forward_unmatched_preflights: bool,
}

/// Changes of headers in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifications {
    /// On the way to the destination.
    pub request: HeaderModification,
    /// On the way back.
    pub response: HeaderModification,
}

/// Changes of headers in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModification {
    /// Overwritten or added: name and value, sorted by name.
    pub set: Vec<(SmolStr, SmolStr)>,
    /// Appended: name and value, sorted by name.
    pub add: Vec<(SmolStr, SmolStr)>,
    /// Removed, in the order written.
    pub remove: Vec<SmolStr>,
}

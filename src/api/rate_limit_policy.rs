//! `istiod-lite.io RateLimitPolicy`: how many requests workloads take. A kind of our own, as Istio has none.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::istio::{PolicyTarget, StringMatch};

/// `spec` of a RateLimitPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimitPolicy {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// `limits`: all of them hold.
    pub limits: Vec<Arc<RateLimit>>,
    /// `global`: who is asked beside.
    pub global: Option<Arc<GlobalRateLimit>>,
}

/// `limits[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// `name`, which its statistics have.
    pub name: SmolStr,
    /// `match`: the requests that count.
    pub counted: CountedRequests,
    /// `per`: which of them are counted together.
    pub per: Per,
    /// `requests`: how many are taken in one `interval`.
    pub requests: u32,
    /// `interval`
    pub interval: Duration,
    /// `burst`: how many are taken at once; `None`: as many as in an interval.
    pub burst: Option<u32>,
    /// `shadow`: what is over the limit is counted, and taken.
    pub shadow: bool,
    /// `headers`: answers say how much of the limit is left.
    pub headers: bool,
}

/// `limits[].match`: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CountedRequests {
    /// `uri`: the path, without its query.
    pub uri: Option<StringMatch>,
    /// `method`
    pub method: Option<StringMatch>,
    /// `headers`, by name.
    pub headers: Vec<(SmolStr, StringMatch)>,
}

/// `limits[].per`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Per {
    /// What tells them apart; `None`: nothing does.
    pub key: Option<PerKey>,
    /// `maxValues`: for how many of its values there is a count of their own.
    pub max_values: u32,
}

/// What tells requests apart that are counted each by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PerKey {
    /// `header`: its value.
    Header(SmolStr),
    /// `clientIdentity`: who the client has proven to be by its certificate.
    ClientIdentity,
}

/// `global`: a service counts what all workloads take together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GlobalRateLimit {
    /// `service`: its host; a name without a dot is of the policy's namespace.
    pub service: SmolStr,
    /// `port`
    pub port: u16,
    /// `domain`: under which the service finds its limits.
    pub domain: SmolStr,
    /// `failClosed`: whether requests are refused while nobody answers.
    pub fail_closed: bool,
    /// `timeout`: how long the service may take; `None`: as long as Envoy waits by itself.
    pub timeout: Option<Duration>,
    /// `headers`: answers say how much of the limit is left.
    pub headers: bool,
    /// `descriptors`: what the service is told of a request.
    pub descriptors: Vec<RequestDescriptor>,
}

/// `global.descriptors[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestDescriptor {
    /// `entries`
    pub entries: Vec<DescriptorEntry>,
}

/// `global.descriptors[].entries[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DescriptorEntry {
    /// `key`
    pub key: SmolStr,
    /// What stands under it; `None`: that is not clear.
    pub value: Option<EntryValue>,
}

/// What stands under a key of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntryValue {
    /// `value`, and `match`: the requests that have it. Others do not have the descriptor at all.
    Text(SmolStr, CountedRequests),
    /// `header` or `clientIdentity`. Requests without it have the descriptor without the entry.
    Of(PerKey),
}

impl RateLimit {
    /// How long an interval is of which nothing is said.
    pub const USUAL_INTERVAL: Duration = Duration::from_secs(1);

    /// Returns how many requests are taken at once.
    pub fn at_once(&self) -> u32 {
        self.burst.unwrap_or(self.requests)
    }
}

impl Per {
    /// For how many values there is a count of their own, unless that is said.
    pub const USUAL_VALUES: u32 = 1000;
}

impl CountedRequests {
    /// Returns whether all requests count.
    pub fn is_all(&self) -> bool {
        self.uri.is_none() && self.method.is_none() && self.headers.is_empty()
    }
}

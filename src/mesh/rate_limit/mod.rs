//! How many requests workloads take, as RateLimitPolicies say it.

use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use super::{
    model::Hostname,
    names,
    policy_table::{Attachment, Policy},
};
use crate::api::{ObjectKey, istio::TargetRef};
pub use crate::api::{
    istio::StringMatch,
    rate_limit_policy::{
        CountedRequests, DescriptorEntry, EntryValue, GlobalRateLimit, Per, PerKey, RateLimit, RateLimitPolicy, RequestDescriptor,
    },
};

/// What a listener reads of a limit. How many requests pass is not part of it: that changes without the listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlacedLimit {
    /// The filter's name.
    pub filter: SmolStr,
    /// The workload's ports at which it holds; `None`: all.
    pub ports: Option<Arc<[u16]>>,
    /// The service that counts, and its port; `None`: the proxy does.
    pub counter: Option<(Hostname, u16)>,
}

/// What a policy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A Service of Kubernetes, by its name.
    Service(&'a SmolStr),
    /// A Gateway of Istio's, by its name.
    Gateway(&'a SmolStr),
    /// A Gateway of the Gateway API, whose pods carry its name.
    GatewayPods,
}

impl PlacedLimit {
    /// Returns whether it holds for requests to a port of the workload.
    pub fn covers(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

impl Policy for RateLimitPolicy {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_target(&self.target)
    }
}

/// Returns the name of the filter that holds a limit, by which proxies ask for it.
pub fn filter_name(object: &ObjectKey, limit: &RateLimit) -> SmolStr {
    format_smolstr!("{}/{}", global_filter_name(object), limit.name)
}

/// Returns the name of the filter that asks the service of a policy.
pub fn global_filter_name(object: &ObjectKey) -> SmolStr {
    format_smolstr!("istiod-lite.io/ratelimitpolicy/{}.{}", object.namespace, object.name)
}

/// Returns the host of the service that counts for a policy. `domain` is that of the cluster.
pub fn counter(object: &ObjectKey, global: &GlobalRateLimit, domain: &str) -> Hostname {
    names::full_hostname(&global.service, &object.namespace, domain)
}

/// Returns what a target is.
pub fn named(target: &TargetRef) -> Named<'_> {
    match (target.group.as_str(), target.kind.as_str()) {
        ("networking.istio.io", _) => Named::Gateway(&target.name),
        ("" | "core", _) => Named::Service(&target.name),
        _ => Named::GatewayPods,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_at_its_ports_or_at_all() {
        let of = |ports: Option<&[u16]>| PlacedLimit { filter: "f".into(), ports: ports.map(Arc::from), counter: None };
        assert!(of(None).covers(0) && of(None).covers(8080));
        assert!(of(Some(&[8080])).covers(8080) && !of(Some(&[8080])).covers(0));
    }
}

//! Policies of action CUSTOM: for each provider a filter that writes down which policy holds, and one that asks the provider where one
//! does. Where nobody can be asked, or it is not clear who, what a policy holds for is denied.

use envoy_types::pb::envoy::{
    config::{
        listener::v3::Filter,
        rbac::v3::{Rbac, rbac::Action as Verdict},
    },
    extensions::filters::{
        http::rbac::v3::Rbac as HttpRbac,
        network::{http_connection_manager::v3::HttpFilter, rbac::v3::Rbac as NetworkRbac},
    },
    r#type::matcher::v3::MetadataMatcher,
};
use smol_str::SmolStr;

use super::{
    Chain, HTTP_RBAC, NETWORK_RBAC, http_filter,
    matcher::{begins_with, metadata, text_value},
    named_policies, network_filter,
};
use crate::{
    mesh::policy::workload::WorkloadPolicies,
    translate::{filter::ext_authz, wkt},
};

/// What stands before the name under which it is written down which policy holds.
const WRITTEN_DOWN: &str = "istio_ext_authz_";
/// What the name of a policy ends with that denies because nobody can be asked.
const DENIES: &str = "-deny-due-to-bad-CUSTOM-action";

/// Returns the filters of a connection manager.
pub(in crate::translate::filter) fn http_filters(policies: &WorkloadPolicies) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    for (provider, authorizer) in &policies.authorizers {
        let rules = rules(policies, provider, Chain::Http);
        match authorizer {
            Some(authorizer) => {
                filters.push(http_filter(HTTP_RBAC, &noting_http(rules)));
                filters
                    .push(http_filter("envoy.filters.http.ext_authz", &ext_authz::http(authorizer, noted(HTTP_RBAC, policies, provider))));
            }
            None => filters.push(http_filter(HTTP_RBAC, &HttpRbac { rules: Some(denying(rules)), ..HttpRbac::default() })),
        }
    }
    filters
}

/// Returns the filters of a chain that ends in a TCP proxy.
pub(in crate::translate::filter) fn network_filters(policies: &WorkloadPolicies) -> Vec<Filter> {
    let mut filters = Vec::new();
    for (provider, authorizer) in &policies.authorizers {
        let rules = rules(policies, provider, Chain::Tcp);
        let denied = |rules| NetworkRbac { rules: Some(denying(rules)), stat_prefix: "tcp.".into(), ..NetworkRbac::default() };
        match authorizer {
            None => filters.push(network_filter(NETWORK_RBAC, wkt::any(&denied(rules)))),
            Some(authorizer) => {
                // One that speaks HTTP is not asked about connections, as in istiod.
                let Some(asking) = ext_authz::network(authorizer, noted(NETWORK_RBAC, policies, provider)) else { continue };
                filters.push(network_filter(NETWORK_RBAC, wkt::any(&noting_network(rules))));
                filters.push(network_filter("envoy.filters.network.ext_authz", wkt::any(&asking)));
            }
        }
    }
    filters
}

/// Returns the rules of all policies that have a provider asked.
fn rules(policies: &WorkloadPolicies, provider: &SmolStr, chain: Chain) -> Rbac {
    let prefix = format!("{}-", prefix(provider));
    let asking = policies.authorization.iter().filter(|policy| policy.spec.provider() == Some(provider));
    let named = asking.flat_map(|policy| named_policies(policy, chain, Verdict::Deny));
    let policies = named.map(|(name, policy)| (format!("{prefix}{name}"), policy)).collect();
    Rbac { action: Verdict::Deny.into(), policies, ..Rbac::default() }
}

/// Returns what the names of the policies of a provider begin with.
fn prefix(provider: &str) -> String {
    match provider {
        "" => "istio-ext-authz".to_owned(),
        provider => format!("istio-ext-authz-{provider}"),
    }
}

/// Matches where the filter before has written down a policy of the provider.
///
/// Where it has not, there may still stand what it wrote down for the provider before. So of several it counts how the whole of the
/// provider's name ends: `guard-ns[…` is no policy of provider `guard-n`.
fn noted(filter: &str, policies: &WorkloadPolicies, provider: &str) -> MetadataMatcher {
    let end = if policies.authorizers.len() > 1 { "-ns[" } else { "" };
    let beginning = prefix(provider) + end;
    metadata(filter, ["istio_ext_authz_shadow_effective_policy_id"], text_value(begins_with(&beginning)))
}

fn noting_http(rules: Rbac) -> HttpRbac {
    HttpRbac { shadow_rules: Some(rules), shadow_rules_stat_prefix: WRITTEN_DOWN.into(), ..HttpRbac::default() }
}

fn noting_network(rules: Rbac) -> NetworkRbac {
    NetworkRbac {
        shadow_rules: Some(rules),
        shadow_rules_stat_prefix: WRITTEN_DOWN.into(),
        stat_prefix: "tcp.".into(),
        ..NetworkRbac::default()
    }
}

/// Returns the same rules under names that say why they deny.
fn denying(rules: Rbac) -> Rbac {
    let policies = rules.policies.into_iter().map(|(name, policy)| (name + DENIES, policy)).collect();
    Rbac { policies, ..rules }
}

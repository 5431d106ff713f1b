//! AuthorizationPolicies as Envoy's RBAC filters: one for each action, AUDIT before DENY before ALLOW (contract §6.7). Those of action
//! CUSTOM come before them, in a file of their own.

pub(super) mod custom;
mod matcher;
mod permission;
mod principal;

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            listener::v3::{Filter, filter::ConfigType as NetworkConfig},
            rbac::v3::{
                Permission, Policy, Principal, Rbac, permission as of_permission, principal as of_principal, rbac::Action as Verdict,
            },
        },
        extensions::filters::{
            http::rbac::v3::Rbac as HttpRbac,
            network::{
                http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
                rbac::v3::Rbac as NetworkRbac,
            },
        },
    },
    google::protobuf::Any,
};

use prost::{Message, Name};

use crate::{
    mesh::{
        authorization::{Action, AuthorizationPolicy, Rule},
        by_ptr::ByPtr,
        configured::Configured,
    },
    translate::wkt,
};

/// Policies that apply together, in the order in which they count.
type Policies = [ByPtr<Configured<AuthorizationPolicy>>];

/// The filters' names, under which they write down what they would decide.
const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

/// What is decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Http,
    Tcp,
}

/// What the filter of one action holds.
#[derive(Default)]
struct Rules {
    enforced: Option<Rbac>,
    /// What is only tried.
    shadow: Option<Rbac>,
}

impl Rules {
    /// Returns what stands before the names under which it is written down what would have been decided; as in istiod, also
    /// where nothing is tried.
    fn shadow_prefix(&self) -> String {
        match self.shadow.as_ref().map_or(Verdict::Allow, Rbac::action) {
            Verdict::Allow => "istio_dry_run_allow_",
            Verdict::Deny => "istio_dry_run_deny_",
            Verdict::Log => "",
        }
        .to_owned()
    }
}

/// Returns the filters of a connection manager.
pub(super) fn http_filters(policies: &Policies) -> Vec<HttpFilter> {
    let filter = |rules: Rules| {
        let config = HttpRbac {
            shadow_rules_stat_prefix: rules.shadow_prefix(),
            rules: rules.enforced,
            shadow_rules: rules.shadow,
            ..HttpRbac::default()
        };
        http_filter(HTTP_RBAC, &config)
    };
    by_action(policies, Chain::Http).map(filter).collect()
}

/// Returns the filters of a chain that ends in a TCP proxy.
pub(super) fn network_filters(policies: &Policies) -> Vec<Filter> {
    let filter = |rules: Rules| {
        let config = NetworkRbac {
            shadow_rules_stat_prefix: rules.shadow_prefix(),
            rules: rules.enforced,
            shadow_rules: rules.shadow,
            stat_prefix: "tcp.".into(),
            ..NetworkRbac::default()
        };
        network_filter(NETWORK_RBAC, wkt::any(&config))
    };
    by_action(policies, Chain::Tcp).map(filter).collect()
}

fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter { name: name.into(), config_type: Some(ConfigType::TypedConfig(wkt::any(config))), ..HttpFilter::default() }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.into(), config_type: Some(NetworkConfig::TypedConfig(config)) }
}

/// Returns the rules of each action that there is a policy of.
fn by_action(policies: &Policies, chain: Chain) -> impl Iterator<Item = Rules> {
    let audit = rules(policies, chain, Verdict::Log, |action| *action == Action::Audit);
    let deny = rules(policies, chain, Verdict::Deny, |action| *action == Action::Deny);
    let allow = rules(policies, chain, Verdict::Allow, |action| *action == Action::Allow);
    [audit, deny, allow].into_iter().flatten()
}

fn rules(policies: &Policies, chain: Chain, verdict: Verdict, is_of: impl Fn(&Action) -> bool) -> Option<Rules> {
    let mut rules = Rules::default();
    for policy in policies.iter().filter(|policy| is_of(&policy.spec.action)) {
        let AuthorizationPolicy { dry_run, .. } = *policy.spec;
        let into = if dry_run { &mut rules.shadow } else { &mut rules.enforced };
        let into = into.get_or_insert_with(|| Rbac { action: verdict.into(), ..Rbac::default() });
        into.policies.extend(named_policies(policy, chain, verdict));
    }
    (rules.enforced.is_some() || rules.shadow.is_some()).then_some(rules)
}

fn named_policies(policy: &Configured<AuthorizationPolicy>, chain: Chain, verdict: Verdict) -> HashMap<String, Policy> {
    let object = &policy.origin.object;
    let name = |at: usize| format!("ns[{}]-policy[{}]-rule[{at}]", object.namespace, object.name);
    let rules = &policy.spec.rules;
    if rules.is_empty() {
        return HashMap::from([(name(0), never())]);
    }
    // A rule that allows what only requests have allows no TCP connection. One that denies it denies without asking for that.
    let has_effect = |rule: &Rule| !(chain == Chain::Tcp && verdict == Verdict::Allow && rule.is_http());
    rules.iter().enumerate().filter(|(_, rule)| has_effect(rule)).map(|(at, rule)| (name(at), policy_of(rule, chain))).collect()
}

fn policy_of(rule: &Rule, chain: Chain) -> Policy {
    let counts = |is_http: bool| chain == Chain::Http || !is_http;
    let permissions = rule.operations.iter().map(|conditions| {
        let counting = conditions.iter().filter(|condition| counts(condition.is_http()));
        permission::all(counting.flat_map(permission::of).collect())
    });
    let principals = rule.sources.iter().map(|conditions| {
        let counting = conditions.iter().filter(|condition| counts(condition.is_http()));
        principal::all(counting.flat_map(principal::of).collect())
    });
    Policy { permissions: permissions.collect(), principals: principals.collect(), ..Policy::default() }
}

/// Returns what stands for a policy without rules: it never holds.
fn never() -> Policy {
    let any = Permission { rule: Some(of_permission::Rule::Any(true)) };
    let anyone = Principal { identifier: Some(of_principal::Identifier::Any(true)) };
    Policy {
        permissions: vec![Permission { rule: Some(of_permission::Rule::NotRule(Box::new(any))) }],
        principals: vec![Principal { identifier: Some(of_principal::Identifier::NotId(Box::new(anyone))) }],
        ..Policy::default()
    }
}

//! Rules for AuthorizationPolicies.

use ipnet::IpNet;
use smol_str::SmolStr;

use super::{Check, text::is_header_name};
use crate::api::{
    findings::Path,
    istio::{AuthorizationAction, AuthorizationCondition, AuthorizationPolicy, AuthorizationRule, ConditionKey, Operation, Source, Values},
};

const MOST_SERVICE_ACCOUNTS: usize = 16;
const LONGEST_SERVICE_ACCOUNT: usize = 320;

/// Envoy is sent all conditions of a rule with each source, and with each operation.
const MOST_CONDITIONS: usize = 100_000;

impl Check<'_> {
    pub(super) fn authorization_policy(self, policy: &AuthorizationPolicy, at: &Path<'_>) {
        self.target(&policy.target, at);
        let rules = at.field("rules");
        if policy.rules.is_empty() {
            let never = "are missing, so that the policy is never triggered: add an empty rule `{}` to have it triggered by every request";
            match policy.action {
                AuthorizationAction::Deny | AuthorizationAction::Custom => self.error(&rules, never),
                AuthorizationAction::Audit => self.warning(&rules, never),
                AuthorizationAction::Allow => self.warning(&rules, "are missing: the policy allows nothing, and every request is denied"),
            }
        }
        self.provider(policy, &at.field("provider"));
        for (index, rule) in policy.rules.iter().enumerate() {
            self.authorization_rule(policy.action, rule, &rules.index(index));
        }
    }

    fn provider(self, policy: &AuthorizationPolicy, at: &Path<'_>) {
        let named = policy.provider.as_ref().is_some_and(|name| !name.is_empty());
        match policy.action {
            AuthorizationAction::Custom if !named => self.error(&at.field("name"), "is missing: CUSTOM asks the provider of that name"),
            AuthorizationAction::Custom => {}
            _ if policy.provider.is_some() => self.error(at, "is possible with action CUSTOM only"),
            _ => {}
        }
    }

    fn authorization_rule(self, action: AuthorizationAction, rule: &AuthorizationRule, at: &Path<'_>) {
        let from = at.field("from");
        for (index, source) in rule.from.iter().enumerate() {
            let at = from.index(index);
            self.source(action, source, &at.field("source"));
        }
        let to = at.field("to");
        for (index, operation) in rule.to.iter().enumerate() {
            let at = to.index(index);
            self.operation(operation, &at.field("operation"));
        }
        let when = at.field("when");
        for (index, condition) in rule.when.iter().enumerate() {
            self.condition(action, condition, &when.index(index));
        }
        let values: usize = rule.when.iter().map(|condition| condition.values.len()).sum();
        let made = values.saturating_mul(rule.from.len().max(rule.to.len()));
        if made > MOST_CONDITIONS {
            let what = "from or to, times the values of when,";
            self.error(at, format!("{what} make {made}, more than the {MOST_CONDITIONS} that are possible: split it up"));
        }
        if action == AuthorizationAction::Deny && is_http_only(rule) {
            self.warning(
                at,
                "names only what HTTP requests have: at TCP ports that is ignored, and more is denied (name the ports that are meant)",
            );
        }
    }

    fn source(self, action: AuthorizationAction, source: &Source, at: &Path<'_>) {
        let Source { principals, request_principals, namespaces, service_accounts, trust_domains, ip_blocks: _, remote_ip_blocks: _ } =
            source;
        let identities = [
            ("principals", "notPrincipals", principals),
            ("requestPrincipals", "notRequestPrincipals", request_principals),
            ("namespaces", "notNamespaces", namespaces),
            ("serviceAccounts", "notServiceAccounts", service_accounts),
            ("trustDomains", "notTrustDomains", trust_domains),
        ];
        for (name, negated, values) in identities {
            self.each(values, at, name, negated, |value| (value.is_empty()).then(|| EMPTY.to_owned()));
            if action == AuthorizationAction::Custom && !values.is_empty() {
                self.error(at, format!("{name} and {negated} are not possible with action CUSTOM"));
            }
        }
        self.each(service_accounts, at, "serviceAccounts", "notServiceAccounts", wrong_service_account);
        self.few_service_accounts(service_accounts, at);
        self.each(trust_domains, at, "trustDomains", "notTrustDomains", |value| {
            wrong_wildcard(value).or_else(|| value.contains('/').then(|| format!("must not have a slash, is {value:?}")))
        });
        let others = [principals, namespaces].iter().any(|values| !values.is_empty());
        if others && !service_accounts.is_empty() {
            self.error(&at.field("serviceAccounts"), "are not possible beside principals or namespaces");
        }
    }

    fn operation(self, operation: &Operation, at: &Path<'_>) {
        let Operation { hosts, ports: _, methods, paths } = operation;
        for (name, negated, values) in [("hosts", "notHosts", hosts), ("methods", "notMethods", methods), ("paths", "notPaths", paths)] {
            self.each(values, at, name, negated, |value| (value.is_empty()).then(|| EMPTY.to_owned()));
        }
        self.each(paths, at, "paths", "notPaths", wrong_template);
    }

    fn condition(self, action: AuthorizationAction, condition: &AuthorizationCondition, at: &Path<'_>) {
        let AuthorizationCondition { key, values } = condition;
        let meaning = match ConditionKey::parse(key) {
            Ok(meaning) => meaning,
            Err(why) => return self.error(&at.field("key"), format!("{why}, is {key:?}")),
        };
        if values.is_empty() {
            self.error(at, "needs values or notValues");
        }
        if action == AuthorizationAction::Custom && is_identity(&meaning) {
            self.error(&at.field("key"), format!("{key} is not possible with action CUSTOM"));
        }
        if let ConditionKey::RequestHeader(name) = &meaning
            && !is_header_name(name.strip_prefix(':').unwrap_or(name))
        {
            self.error(&at.field("key"), format!("{name:?} is no name of a header"));
        }
        if meaning == ConditionKey::SourceServiceAccount {
            self.few_service_accounts(values, at);
        }
        self.each(values, at, "values", "notValues", |value| match meaning {
            _ if value.is_empty() => Some(EMPTY.to_owned()),
            ConditionKey::SourceIp | ConditionKey::RemoteIp | ConditionKey::DestinationIp => {
                let valid = value.parse::<IpNet>().is_ok() || value.parse::<std::net::IpAddr>().is_ok();
                (!valid).then(|| format!("must be an IP address or a network such as 10.0.0.0/8, is {value:?}"))
            }
            ConditionKey::DestinationPort => value.parse::<u16>().is_err().then(|| format!("must be a port, is {value:?}")),
            ConditionKey::SourceServiceAccount => wrong_service_account(value),
            ConditionKey::SourceTrustDomain => wrong_wildcard(value),
            _ => None,
        });
    }

    fn few_service_accounts(self, values: &Values<SmolStr>, at: &Path<'_>) {
        if values.any_of.len().max(values.none_of.len()) > MOST_SERVICE_ACCOUNTS {
            self.error(at, format!("must name at most {MOST_SERVICE_ACCOUNTS} service accounts in one list"));
        }
    }

    /// Reports what `wrong` says of each value of a field and of the one that negates it.
    fn each(self, values: &Values<SmolStr>, at: &Path<'_>, name: &str, negated: &str, wrong: impl Fn(&str) -> Option<String>) {
        for (name, values) in [(name, &values.any_of), (negated, &values.none_of)] {
            let at = at.field(name);
            for (index, value) in values.iter().enumerate() {
                if let Some(why) = wrong(value) {
                    self.error(&at.index(index), why);
                }
            }
        }
    }
}

const EMPTY: &str = "must not be empty";

/// Returns whether a rule names only what TCP connections do not have.
fn is_http_only(rule: &AuthorizationRule) -> bool {
    let tcp_source = |source: &Source| {
        let Source { principals, namespaces, service_accounts, trust_domains, ip_blocks, remote_ip_blocks, .. } = source;
        let identities = [principals, namespaces, service_accounts, trust_domains].iter().any(|values| !values.is_empty());
        identities || !ip_blocks.is_empty() || !remote_ip_blocks.is_empty()
    };
    // A key that there is not is told by itself.
    let tcp_condition = |condition: &AuthorizationCondition| ConditionKey::parse(&condition.key).map_or(true, |key| !key.is_http());
    match (rule.from.is_empty(), rule.to.is_empty()) {
        (true, true) => !rule.when.is_empty() && !rule.when.iter().any(tcp_condition),
        (false, true) => !rule.from.iter().any(tcp_source),
        (_, false) => !rule.to.iter().any(|operation| !operation.ports.is_empty()),
    }
}

/// Returns whether it asks who sent a request, which is not known yet where CUSTOM decides.
fn is_identity(key: &ConditionKey) -> bool {
    matches!(
        key,
        ConditionKey::SourceNamespace
            | ConditionKey::SourceServiceAccount
            | ConditionKey::SourcePrincipal
            | ConditionKey::SourceTrustDomain
            | ConditionKey::RequestPrincipal
            | ConditionKey::RequestAudiences
            | ConditionKey::RequestPresenter
            | ConditionKey::RequestClaim(_)
    )
}

fn wrong_service_account(value: &str) -> Option<String> {
    let (namespace, name) = value.split_once('/').unwrap_or(("-", value));
    if value.contains('*') {
        return Some("wildcards are not possible in service accounts".to_owned());
    }
    if value.len() > LONGEST_SERVICE_ACCOUNT {
        return Some(format!("has {} bytes, more than the {LONGEST_SERVICE_ACCOUNT} that are possible", value.len()));
    }
    let valid = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    (!valid).then(|| format!("must be a service account or namespace/service account, is {value:?}"))
}

fn wrong_wildcard(value: &str) -> Option<String> {
    let wildcards = value.matches('*').count();
    let valid = wildcards == 0 || (wildcards == 1 && (value.starts_with('*') || value.ends_with('*')));
    (!valid).then(|| format!("* is possible once, at the beginning or at the end, is {value:?}"))
}

/// Returns what is wrong with a path as far as it is a template. Other paths may be anything but for braces.
fn wrong_template(path: &str) -> Option<String> {
    let is_template = path.contains("{*}") || path.contains("{**}");
    if is_template && !path.starts_with('/') {
        return Some(format!("a path with {{*}} or {{**}} must begin with a slash, is {path:?}"));
    }
    let mut ended = false;
    for segment in path.trim_matches('/').split('/') {
        let is_operator = matches!(segment, "{*}" | "{**}");
        if ended && is_operator {
            return Some(format!("{{**}} must come last, in {path:?}"));
        }
        ended |= segment == "{**}";
        if !is_operator && segment.contains(['{', '}']) {
            return Some(format!("braces are possible as {{*}} and {{**}} only, for a whole segment, is {path:?}"));
        }
        if is_template && !is_operator && !is_literal(segment) {
            return Some(format!("segment {segment:?} of a path with {{*}} or {{**}} must have letters that paths have, is {path:?}"));
        }
    }
    (ended && !path.ends_with("{**}")).then(|| format!("{{**}} must come last, in {path:?}"))
}

/// Returns whether a segment has characters that a path may have (RFC 3986, `pchar`), and at least one.
fn is_literal(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte))
}

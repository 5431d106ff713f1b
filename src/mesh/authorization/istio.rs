//! Converts AuthorizationPolicies. Conditions of `when` are put beside those of each source or operation, whichever they are about.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use smol_str::SmolStr;

use super::{Action, AuthorizationPolicy, OperationCondition, Rule, ServiceAccount, SourceCondition, Values, trust_domains::TrustDomains};
use crate::{
    api::{
        Object,
        istio::{self, AuthorizationAction, AuthorizationCondition, AuthorizationRule, ConditionKey, DRY_RUN, is_dry_run},
    },
    mesh::settings::MeshSettings,
};

/// Converts an AuthorizationPolicy.
pub(in crate::mesh) fn authorization_policy(
    object: &Object,
    written: &istio::AuthorizationPolicy,
    mesh: &MeshSettings,
) -> Arc<AuthorizationPolicy> {
    let action = match written.action {
        AuthorizationAction::Allow => Action::Allow,
        AuthorizationAction::Deny => Action::Deny,
        AuthorizationAction::Audit => Action::Audit,
        AuthorizationAction::Custom => Action::Custom(written.provider.clone().unwrap_or_default()),
    };
    let converter = Converter {
        namespace: &object.key.namespace,
        trust_domains: TrustDomains { own: &mesh.trust_domain, aliases: &mesh.trust_domain_aliases },
    };
    let rules = written.rules.iter().filter_map(|rule| match converter.rule(rule) {
        // What cannot be understood allows nothing, and is denied whatever it is. The checks of objects let none of it through.
        None if action == Action::Allow => None,
        None => Some(Rule { sources: vec![Vec::new()], operations: vec![Vec::new()] }),
        rule => rule,
    });
    Arc::new(AuthorizationPolicy {
        target: written.target.clone(),
        dry_run: object.metadata.annotations.get(DRY_RUN).and_then(|value| is_dry_run(value)).unwrap_or_default(),
        rules: rules.collect(),
        action,
    })
}

struct Converter<'a> {
    namespace: &'a SmolStr,
    trust_domains: TrustDomains<'a>,
}

/// A condition of `when`, which is about one side or the other.
enum Condition {
    Source(SourceCondition),
    Operation(OperationCondition),
}

impl Converter<'_> {
    fn rule(&self, written: &AuthorizationRule) -> Option<Rule> {
        let (mut of_source, mut of_operation) = (Vec::new(), Vec::new());
        for condition in &written.when {
            match self.condition(condition)? {
                Condition::Source(condition) => of_source.push(condition),
                Condition::Operation(condition) => of_operation.push(condition),
            }
        }
        let mut sources: Vec<Vec<SourceCondition>> = written.from.iter().map(|source| self.source(source)).collect();
        let mut operations: Vec<Vec<OperationCondition>> = written.to.iter().map(operation).collect();
        if sources.is_empty() {
            sources.push(Vec::new());
        }
        if operations.is_empty() {
            operations.push(Vec::new());
        }
        sources.iter_mut().for_each(|source| source.extend_from_slice(&of_source));
        operations.iter_mut().for_each(|operation| operation.extend_from_slice(&of_operation));
        Some(Rule { sources, operations })
    }

    fn source(&self, written: &istio::Source) -> Vec<SourceCondition> {
        let conditions = [
            SourceCondition::Principal(self.trust_domains.principals(&written.principals)),
            SourceCondition::RequestPrincipal(written.request_principals.clone()),
            SourceCondition::ServiceAccount(self.service_accounts(&written.service_accounts)),
            SourceCondition::TrustDomain(self.trust_domains.names(&written.trust_domains)),
            SourceCondition::Namespace(written.namespaces.clone()),
            SourceCondition::RemoteIp(written.remote_ip_blocks.clone()),
            SourceCondition::Ip(written.ip_blocks.clone()),
        ];
        conditions.into_iter().filter(|condition| !condition.is_empty()).collect()
    }

    fn condition(&self, written: &AuthorizationCondition) -> Option<Condition> {
        let values = &written.values;
        let same = || values.clone();
        Some(match ConditionKey::parse(&written.key).ok()? {
            ConditionKey::SourceIp => Condition::Source(SourceCondition::Ip(parsed(values, network)?)),
            ConditionKey::RemoteIp => Condition::Source(SourceCondition::RemoteIp(parsed(values, network)?)),
            ConditionKey::SourceNamespace => Condition::Source(SourceCondition::Namespace(same())),
            ConditionKey::SourceServiceAccount => Condition::Source(SourceCondition::ServiceAccount(self.service_accounts(values))),
            ConditionKey::SourcePrincipal => Condition::Source(SourceCondition::Principal(self.trust_domains.principals(values))),
            ConditionKey::SourceTrustDomain => Condition::Source(SourceCondition::TrustDomain(self.trust_domains.names(values))),
            ConditionKey::RequestHeader(name) => Condition::Source(SourceCondition::RequestHeader(name, same())),
            ConditionKey::RequestPrincipal => Condition::Source(SourceCondition::RequestPrincipal(same())),
            ConditionKey::RequestAudiences => Condition::Source(SourceCondition::RequestAudience(same())),
            ConditionKey::RequestPresenter => Condition::Source(SourceCondition::RequestPresenter(same())),
            ConditionKey::RequestClaim(names) => Condition::Source(SourceCondition::RequestClaim(names, same())),
            ConditionKey::DestinationIp => Condition::Operation(OperationCondition::Ip(parsed(values, network)?)),
            ConditionKey::DestinationPort => Condition::Operation(OperationCondition::Port(parsed(values, |text| text.parse().ok())?)),
            ConditionKey::Sni => Condition::Operation(OperationCondition::ServerName(same())),
            ConditionKey::FilterMetadata(filter, key) => Condition::Operation(OperationCondition::FilterMetadata(filter, key, same())),
        })
    }

    fn service_accounts(&self, written: &Values<SmolStr>) -> Values<ServiceAccount> {
        let account = |text: &SmolStr| match text.split_once('/') {
            Some((namespace, name)) => ServiceAccount { namespace: namespace.into(), name: name.into() },
            None => ServiceAccount { namespace: self.namespace.clone(), name: text.clone() },
        };
        Values { any_of: written.any_of.iter().map(account).collect(), none_of: written.none_of.iter().map(account).collect() }
    }
}

fn operation(written: &istio::Operation) -> Vec<OperationCondition> {
    let conditions = [
        OperationCondition::Host(written.hosts.clone()),
        OperationCondition::Method(written.methods.clone()),
        OperationCondition::Path(written.paths.clone()),
        OperationCondition::Port(written.ports.clone()),
    ];
    conditions.into_iter().filter(|condition| !condition.is_empty()).collect()
}

fn parsed<T>(values: &Values<SmolStr>, parse: impl Fn(&str) -> Option<T>) -> Option<Values<T>> {
    let all = |values: &[SmolStr]| values.iter().map(|text| parse(text)).collect::<Option<Vec<T>>>();
    Some(Values { any_of: all(&values.any_of)?, none_of: all(&values.none_of)? })
}

fn network(text: &str) -> Option<IpNet> {
    IpNet::from_str(text).ok().or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))
}

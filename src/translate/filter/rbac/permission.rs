//! What is sent, as Envoy's permissions.

use envoy_types::pb::envoy::{
    config::{
        core::v3::TypedExtensionConfig,
        rbac::v3::{
            Permission,
            permission::{Rule, Set},
        },
    },
    extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig,
    r#type::matcher::v3::{PathMatcher, ValueMatcher, path_matcher},
};
use smol_str::SmolStr;

use super::matcher::{cidr_range, header, host, list_with, metadata, one_of, text, text_value};
use crate::{
    mesh::authorization::{OperationCondition, Values},
    translate::wkt,
};

/// Returns what holds when all of these do.
pub(super) fn all(mut conditions: Vec<Permission>) -> Permission {
    if conditions.is_empty() {
        conditions.push(permission(Rule::Any(true)));
    }
    permission(Rule::AndRules(Set { rules: conditions }))
}

/// Returns a condition in two parts, of which both must hold: one of what is wanted, and none of what is not.
pub(super) fn of(condition: &OperationCondition) -> Vec<Permission> {
    match condition {
        OperationCondition::Host(values) => each(values, |value| permission(Rule::Header(host(value)))),
        OperationCondition::Method(values) => each(values, |value| permission(Rule::Header(header(":method", value)))),
        OperationCondition::Path(values) => each(values, |value| path(value)),
        OperationCondition::Port(values) => each(values, |port| permission(Rule::DestinationPort((*port).into()))),
        OperationCondition::Ip(values) => each(values, |network| permission(Rule::DestinationIp(cidr_range(network)))),
        OperationCondition::ServerName(values) => each(values, |value| permission(Rule::RequestedServerName(text(value)))),
        OperationCondition::FilterMetadata(filter, key, values) => {
            let of = |values: &[SmolStr]| written_down(filter, key, one_of(values.iter().map(|value| listed_or_plain(value)).collect()));
            let any = |values: &[SmolStr]| (!values.is_empty()).then(|| of(values));
            any(&values.any_of).into_iter().chain(any(&values.none_of).map(not)).collect()
        }
    }
}

fn permission(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn not(negated: Permission) -> Permission {
    permission(Rule::NotRule(Box::new(negated)))
}

/// Makes a permission of each value.
fn each<T>(values: &Values<T>, of: impl Fn(&T) -> Permission) -> Vec<Permission> {
    let any = |values: &[T]| (!values.is_empty()).then(|| permission(Rule::OrRules(Set { rules: values.iter().map(&of).collect() })));
    any(&values.any_of).into_iter().chain(any(&values.none_of).map(not)).collect()
}

/// Matches a path, or a template in which `{*}` stands for one segment and `{**}` for any number of them.
fn path(pattern: &str) -> Permission {
    if pattern.contains("{*}") || pattern.contains("{**}") {
        let template = UriTemplateMatchConfig { path_template: pattern.replace("{*}", "*").replace("{**}", "**") };
        let typed_config = Some(wkt::any(&template));
        return permission(Rule::UriTemplate(TypedExtensionConfig { name: "uri-template".into(), typed_config }));
    }
    permission(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text(pattern))) }))
}

#[allow(deprecated, reason = "what Istio sends")]
fn written_down(filter: &str, key: &str, value: ValueMatcher) -> Permission {
    permission(Rule::Metadata(metadata(filter, [key], value)))
}

/// Matches a text, or, of `[text]`, a list that has it.
fn listed_or_plain(value: &str) -> ValueMatcher {
    match value.starts_with('[') && value.ends_with(']') {
        true => list_with(text_value(text(value.trim_matches(['[', ']'])))),
        false => text_value(text(value)),
    }
}

//! Who sends, as Envoy's principals.

use envoy_types::pb::envoy::{
    config::rbac::v3::{
        Principal,
        principal::{Authenticated, Identifier, Set},
    },
    r#type::matcher::v3::{StringMatcher, ValueMatcher},
};
use smol_str::SmolStr;

use super::matcher::{
    begins_with, cidr_range, ends_with, exact, header, identity, list_with, metadata, one_of, one_text_of, quoted, regex, text_value,
};
use crate::mesh::authorization::{ServiceAccount, SourceCondition, Values};

/// The filter that writes down what a token says, and where.
const TOKENS: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";

/// Returns what holds when all of these do.
pub(super) fn all(mut conditions: Vec<Principal>) -> Principal {
    if conditions.is_empty() {
        conditions.push(principal(Identifier::Any(true)));
    }
    principal(Identifier::AndIds(Set { ids: conditions }))
}

/// Returns a condition in two parts, of which both must hold: one of what is wanted, and none of what is not.
pub(super) fn of(condition: &SourceCondition) -> Vec<Principal> {
    match condition {
        SourceCondition::Principal(values) => each(values, |value| authenticated(identity(value))),
        SourceCondition::Namespace(values) => each(values, |value| authenticated(regex(&namespace(value)))),
        SourceCondition::ServiceAccount(values) => each(values, |value| authenticated(regex(&service_account(value)))),
        SourceCondition::TrustDomain(values) => each(values, |value| authenticated(trust_domain(value))),
        SourceCondition::Ip(values) => each(values, |value| principal(Identifier::DirectRemoteIp(cidr_range(value)))),
        SourceCondition::RemoteIp(values) => each(values, |value| principal(Identifier::RemoteIp(cidr_range(value)))),
        SourceCondition::RequestHeader(name, values) => each(values, |value| principal(Identifier::Header(header(name, value)))),
        SourceCondition::RequestPrincipal(values) => {
            together(values, |values| any_of(values.iter().map(|value| token_of(value)).collect()))
        }
        SourceCondition::RequestAudience(values) => together(values, |values| claim(&["aud".into()], one_text_of(values))),
        SourceCondition::RequestPresenter(values) => together(values, |values| claim(&["azp".into()], one_text_of(values))),
        SourceCondition::RequestClaim(names, values) => together(values, |values| claim(names, one_text_of(values))),
    }
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn not(negated: Principal) -> Principal {
    principal(Identifier::NotId(Box::new(negated)))
}

/// Makes a principal of each value.
fn each<T>(values: &Values<T>, of: impl Fn(&T) -> Principal) -> Vec<Principal> {
    let any = |values: &[T]| (!values.is_empty()).then(|| principal(Identifier::OrIds(Set { ids: values.iter().map(&of).collect() })));
    any(&values.any_of).into_iter().chain(any(&values.none_of).map(not)).collect()
}

/// Makes one principal of all values.
fn together(values: &Values<SmolStr>, of: impl Fn(&[SmolStr]) -> Principal) -> Vec<Principal> {
    let any = |values: &[SmolStr]| (!values.is_empty()).then(|| of(values));
    any(&values.any_of).into_iter().chain(any(&values.none_of).map(not)).collect()
}

fn any_of(mut principals: Vec<Principal>) -> Principal {
    match principals.len() {
        1 => principals.remove(0),
        _ => principal(Identifier::OrIds(Set { ids: principals })),
    }
}

fn authenticated(name: StringMatcher) -> Principal {
    principal(Identifier::Authenticated(Authenticated { principal_name: Some(name) }))
}

fn namespace(pattern: &str) -> String {
    let parts: Vec<String> = pattern.split('*').map(quoted).collect();
    format!(".*/ns/{}/.*", parts.join(".*"))
}

fn service_account(account: &ServiceAccount) -> String {
    format!("spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?", quoted(&account.namespace), quoted(&account.name))
}

fn trust_domain(pattern: &str) -> StringMatcher {
    match pattern.split_once('*') {
        _ if pattern == "*" => begins_with("spiffe://"),
        None => begins_with(&format!("spiffe://{pattern}/")),
        Some((before, after)) => regex(&format!("spiffe://{}[^/]*{}/.*", quoted(before), quoted(after))),
    }
}

/// Matches the issuer and the subject of a token by `<issuer>/<subject>`, where the issuer may have slashes too.
fn token_of(pattern: &str) -> Principal {
    let any = || regex(".+");
    let parts = pattern.rsplit_once('/');
    let (issuer, subject) = match (parts, pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (_, Some(""), _) => (any(), any()),
        (Some(("*", subject)), Some(_), _) => (any(), exact(subject)),
        (Some((issuer, subject)), Some(_), _) => (ends_with(issuer.strip_prefix('*').unwrap_or(issuer)), exact(subject)),
        (None, Some(suffix), _) => (any(), ends_with(suffix)),
        (Some((issuer, "*")), None, Some(_)) => (exact(issuer), any()),
        (Some((issuer, subject)), None, Some(_)) => (exact(issuer), begins_with(subject.strip_suffix('*').unwrap_or(subject))),
        (None, None, Some(prefix)) => (begins_with(prefix), any()),
        (Some((issuer, subject)), None, None) => (exact(issuer), exact(subject)),
        (None, None, None) => (exact(pattern), exact("")),
    };
    let of_token = |name: &str, matcher| token(&[name.into()], text_value(matcher));
    principal(Identifier::AndIds(Set { ids: vec![of_token("iss", issuer), of_token("sub", subject)] }))
}

/// Matches a claim that is such a text, or a list with one.
fn claim(names: &[SmolStr], value: ValueMatcher) -> Principal {
    let either = one_of(vec![list_with(value.clone()), value]);
    token(names, either)
}

#[allow(deprecated, reason = "what Istio sends")]
fn token(names: &[SmolStr], value: ValueMatcher) -> Principal {
    principal(Identifier::Metadata(metadata(TOKENS, [PAYLOAD].into_iter().chain(names.iter().map(SmolStr::as_str)), value)))
}

//! The entries of what requests are described by.

use envoy_types::pb::envoy::{
    config::{
        core::v3::TypedExtensionConfig,
        route::v3::{
            HeaderMatcher,
            header_matcher::HeaderMatchSpecifier,
            rate_limit::{
                Action,
                action::{ActionSpecifier, GenericKey, HeaderValueMatch, RequestHeaders},
            },
        },
    },
    extensions::rate_limit_descriptors::expr::v3::{Descriptor as Expression, descriptor::ExprSpecifier},
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};

use crate::{
    mesh::rate_limit::{CountedRequests, PerKey, StringMatch},
    translate::wkt,
};

/// Who the client is, in CEL: the URI of the certificate that it has shown.
const IDENTITY: &str = "connection.uri_san_peer_certificate";

/// Returns the entry with that text. Requests that do not count have none, and so no descriptor.
pub(super) fn text(key: &str, text: &str, counted: &CountedRequests) -> Action {
    let (descriptor_key, descriptor_value) = (key.to_owned(), text.to_owned());
    action(match counted.is_all() {
        true => ActionSpecifier::GenericKey(GenericKey { descriptor_key, descriptor_value, ..GenericKey::default() }),
        false => ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_key,
            descriptor_value,
            headers: matchers(counted),
            ..HeaderValueMatch::default()
        }),
    })
}

/// Returns the entry with what tells requests apart. Where a request does not have it, it is left out, and the rest of the descriptor stays.
pub(super) fn value(key: &str, of: &PerKey) -> Action {
    action(match of {
        PerKey::Header(name) => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.to_string(),
            descriptor_key: key.into(),
            skip_if_absent: true,
        }),
        PerKey::ClientIdentity => ActionSpecifier::Extension(identity(key)),
    })
}

fn action(specifier: ActionSpecifier) -> Action {
    Action { action_specifier: Some(specifier) }
}

fn identity(key: &str) -> TypedExtensionConfig {
    let expression =
        Expression { descriptor_key: key.into(), skip_if_error: true, expr_specifier: Some(ExprSpecifier::Text(IDENTITY.into())) };
    TypedExtensionConfig { name: "envoy.rate_limit_descriptors.expr".into(), typed_config: Some(wkt::any(&expression)) }
}

fn matchers(counted: &CountedRequests) -> Vec<HeaderMatcher> {
    let path = counted.uri.as_ref().map(|uri| header(":path", path_pattern(uri)));
    let method = counted.method.as_ref().map(|method| header(":method", pattern(method)));
    let headers = counted.headers.iter().map(|(name, value)| header(name, pattern(value)));
    path.into_iter().chain(method).chain(headers).collect()
}

fn header(name: &str, pattern: Option<MatchPattern>) -> HeaderMatcher {
    let specifier = match pattern {
        Some(pattern) => HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() }
}

/// Returns the pattern of a text; `None`: any text will do.
fn pattern(value: &StringMatch) -> Option<MatchPattern> {
    match value {
        StringMatch::Exact(text) => Some(MatchPattern::Exact(text.to_string())),
        StringMatch::Prefix(text) => Some(MatchPattern::Prefix(text.to_string())),
        StringMatch::Regex(text) if text == "*" => None,
        StringMatch::Regex(text) => Some(regex(text.to_string())),
        StringMatch::Present => None,
    }
}

/// Returns the pattern of a path, behind which there may be a query.
fn path_pattern(uri: &StringMatch) -> Option<MatchPattern> {
    let with_query = |path: &str| regex(format!("(?:{path})(?:[?#].*)?"));
    match uri {
        StringMatch::Exact(path) => Some(with_query(&regex_lite::escape(path))),
        StringMatch::Regex(path) if path != "*" => Some(with_query(path)),
        other => pattern(other),
    }
}

fn regex(regex: String) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher { regex, ..RegexMatcher::default() })
}

//! What a route matches (contract §6.2 `match`).

use envoy_types::pb::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
    },
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};

use crate::{
    mesh::routing::model::{HttpMatch, StringMatch},
    translate::wkt,
};

/// The match of a block; without one every path.
pub(super) fn route_match(block: Option<&HttpMatch>) -> RouteMatch {
    let Some(block) = block else {
        return RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    };
    let mut headers: Vec<_> = block.headers.iter().map(|(name, value)| header(name, value)).collect();
    headers.extend(block.without_headers.iter().map(|(name, value)| HeaderMatcher {
        invert_match: true,
        treat_missing_header_as_empty: !is_present(value),
        ..header(name, value)
    }));
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let pseudo = [(":method", &block.method), (":authority", &block.authority), (":scheme", &block.scheme)];
    headers.extend(pseudo.into_iter().filter_map(|(name, value)| Some(header(name, value.as_ref()?))));
    RouteMatch {
        path_specifier: Some(path(block.uri.as_ref())),
        case_sensitive: wkt::boolean(!block.ignore_uri_case),
        headers,
        query_parameters: block.query_params.iter().map(|(name, value)| query_parameter(name, value)).collect(),
        ..Default::default()
    }
}

/// The path of a match as spans are named after it: `/x`, `/x*`, or the expression.
pub(super) fn path_label(matched: &RouteMatch) -> String {
    match &matched.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".into(),
    }
}

/// A text match; `None` for one that only asks that there is a text.
pub(super) fn string_matcher(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

/// A regular expression of RE2.
pub(super) fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..Default::default() }
}

// `*` is no expression of RE2: users write it for "any".
fn is_present(value: &StringMatch) -> bool {
    match value {
        StringMatch::Present => true,
        StringMatch::Regex(regex) => regex == "*",
        StringMatch::Exact(_) | StringMatch::Prefix(_) => false,
    }
}

fn path(uri: Option<&StringMatch>) -> PathSpecifier {
    match uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
        Some(StringMatch::Regex(expression)) => PathSpecifier::SafeRegex(regex(expression)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".into()),
    }
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    let matcher = (!is_present(value)).then(|| string_matcher(value)).flatten();
    let specifier = matcher.map_or(HeaderMatchSpecifier::PresentMatch(true), HeaderMatchSpecifier::StringMatch);
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn query_parameter(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    let matcher = (!is_present(value)).then(|| string_matcher(value)).flatten();
    let specifier = matcher.map_or(QueryParameterMatchSpecifier::PresentMatch(true), QueryParameterMatchSpecifier::StringMatch);
    QueryParameterMatcher { name: name.into(), query_parameter_match_specifier: Some(specifier) }
}

//! What a route matches (contract §6.2 `match`).

use envoy_types::pb::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
    },
    r#type::matcher::v3::{
        ListMatcher, MetadataMatcher, OrMatcher, RegexMatcher, StringMatcher, ValueMatcher, list_matcher, metadata_matcher,
        string_matcher::MatchPattern, value_matcher,
    },
};

use crate::{
    mesh::routing::model::{ClaimMatch, HeaderMatch, HttpMatch, QueryParameterMatch, StringMatch},
    translate::{
        filter::jwt_authn::{JWT_AUTHN, PAYLOAD},
        wkt,
    },
};

/// Returns Envoy's form of a match; without one, the match of every path.
pub(super) fn route_match(block: Option<&HttpMatch>) -> RouteMatch {
    let Some(block) = block else {
        return RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    };
    let mut headers: Vec<_> = block.headers.iter().map(header_match).collect();
    let pseudo = [(":method", &block.method), (":authority", &block.authority), (":scheme", &block.scheme)];
    headers.extend(pseudo.into_iter().filter_map(|(name, value)| Some(header(name, value.as_ref()?))));
    RouteMatch {
        path_specifier: Some(path(block.path.as_ref())),
        case_sensitive: wkt::boolean(!block.ignore_path_case),
        headers,
        query_parameters: block.query_parameters.iter().map(query_parameter).collect(),
        dynamic_metadata: block.claims.iter().map(claim).collect(),
        ..Default::default()
    }
}

/// Returns the path of a match as spans are named after it: `/x`, `/x*`, or the expression.
pub(super) fn path_label(matched: &RouteMatch) -> String {
    match &matched.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".into(),
    }
}

/// Returns the matcher of a text; `None` if any text will do.
pub(super) fn string_matcher(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

/// Returns an RE2 expression.
pub(super) fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..Default::default() }
}

// `*` is not an RE2 expression: users write it for "any".
fn is_present(value: &StringMatch) -> bool {
    match value {
        StringMatch::Present => true,
        StringMatch::Regex(regex) => regex == "*",
        StringMatch::Exact(_) | StringMatch::Prefix(_) => false,
    }
}

fn path(wanted: Option<&StringMatch>) -> PathSpecifier {
    match wanted {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
        Some(StringMatch::Regex(expression)) => PathSpecifier::SafeRegex(regex(expression)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".into()),
    }
}

fn header_match(HeaderMatch { name, value, inverted }: &HeaderMatch) -> HeaderMatcher {
    let missing_as_empty = *inverted && !is_present(value);
    HeaderMatcher { invert_match: *inverted, treat_missing_header_as_empty: missing_as_empty, ..header(name, value) }
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    let matcher = (!is_present(value)).then(|| string_matcher(value)).flatten();
    let specifier = matcher.map_or(HeaderMatchSpecifier::PresentMatch(true), HeaderMatchSpecifier::StringMatch);
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

// What a token says stands where the filter that verifies it notes it. A claim that is a list has the value if one of its entries does.
fn claim(ClaimMatch { path, value, inverted, .. }: &ClaimMatch) -> MetadataMatcher {
    let key = |key: &str| metadata_matcher::PathSegment { segment: Some(metadata_matcher::path_segment::Segment::Key(key.into())) };
    let of = |pattern: value_matcher::MatchPattern| ValueMatcher { match_pattern: Some(pattern) };
    let value = match (!is_present(value)).then(|| string_matcher(value)).flatten() {
        None => of(value_matcher::MatchPattern::PresentMatch(true)),
        Some(matcher) => {
            let text = of(value_matcher::MatchPattern::StringMatch(matcher));
            let one = ListMatcher { match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(text.clone()))) };
            let list = of(value_matcher::MatchPattern::ListMatch(Box::new(one)));
            of(value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers: vec![list, text] }))
        }
    };
    MetadataMatcher {
        filter: JWT_AUTHN.into(),
        path: std::iter::once(key(PAYLOAD)).chain(path.iter().map(|name| key(name))).collect(),
        value: Some(value),
        invert: *inverted,
    }
}

fn query_parameter(QueryParameterMatch { name, value }: &QueryParameterMatch) -> QueryParameterMatcher {
    let matcher = (!is_present(value)).then(|| string_matcher(value)).flatten();
    let specifier = matcher.map_or(QueryParameterMatchSpecifier::PresentMatch(true), QueryParameterMatchSpecifier::StringMatch);
    QueryParameterMatcher { name: name.to_string(), query_parameter_match_specifier: Some(specifier) }
}

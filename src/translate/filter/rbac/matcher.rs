//! What texts of policies match: a `*` at the beginning or at the end stands for anything, and alone for anything that is there.

use envoy_types::pb::envoy::{
    config::{
        core::v3::CidrRange,
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    r#type::matcher::v3::{
        ListMatcher, MetadataMatcher, OrMatcher, RegexMatcher, StringMatcher, ValueMatcher, list_matcher, metadata_matcher,
        string_matcher::MatchPattern, value_matcher,
    },
};
use ipnet::IpNet;
use smol_str::SmolStr;

use crate::translate::wkt;

/// Matches a text.
pub(super) fn text(pattern: &str) -> StringMatcher {
    match wildcard(pattern) {
        Wildcard::Any => regex(".+"),
        Wildcard::Suffix(suffix) => ends_with(suffix),
        Wildcard::Prefix(prefix) => begins_with(prefix),
        Wildcard::Exact => exact(pattern),
    }
}

/// Matches a SPIFFE identity by a pattern for what comes after `spiffe://`.
pub(super) fn identity(pattern: &str) -> StringMatcher {
    match wildcard(pattern) {
        Wildcard::Any => regex(".+"),
        Wildcard::Suffix(suffix) => regex(&format!("spiffe://.*{}", quoted(suffix))),
        Wildcard::Prefix(prefix) => begins_with(&format!("spiffe://{prefix}")),
        Wildcard::Exact => exact(&format!("spiffe://{pattern}")),
    }
}

/// Matches a header of a request.
pub(super) fn header(name: &str, pattern: &str) -> HeaderMatcher {
    header_matcher(name, pattern, false)
}

/// Matches the host of a request, in either case.
pub(super) fn host(pattern: &str) -> HeaderMatcher {
    header_matcher(":authority", pattern, true)
}

fn header_matcher(name: &str, pattern: &str, ignore_case: bool) -> HeaderMatcher {
    let text = |matcher: StringMatcher| HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, ..matcher });
    let specifier = match wildcard(pattern) {
        Wildcard::Any => HeaderMatchSpecifier::PresentMatch(true),
        Wildcard::Suffix(suffix) => text(ends_with(suffix)),
        Wildcard::Prefix(prefix) => text(begins_with(prefix)),
        Wildcard::Exact => text(exact(pattern)),
    };
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() }
}

/// Matches a value that a filter has written down under a key.
pub(super) fn metadata<'a>(filter: &str, path: impl IntoIterator<Item = &'a str>, value: ValueMatcher) -> MetadataMatcher {
    let segment = |key: &str| metadata_matcher::PathSegment { segment: Some(metadata_matcher::path_segment::Segment::Key(key.into())) };
    MetadataMatcher {
        filter: filter.into(),
        path: path.into_iter().map(segment).collect(),
        value: Some(value),
        ..MetadataMatcher::default()
    }
}

/// Matches one of these values.
pub(super) fn one_of(mut values: Vec<ValueMatcher>) -> ValueMatcher {
    match values.len() {
        1 => values.remove(0),
        _ => value(value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers: values })),
    }
}

/// Matches a value that is a text.
pub(super) fn text_value(matcher: StringMatcher) -> ValueMatcher {
    value(value_matcher::MatchPattern::StringMatch(matcher))
}

/// Matches a list that has such a value.
pub(super) fn list_with(element: ValueMatcher) -> ValueMatcher {
    let one = list_matcher::MatchPattern::OneOf(Box::new(element));
    value(value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher { match_pattern: Some(one) })))
}

fn value(pattern: value_matcher::MatchPattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

/// Returns a network as Envoy names it.
pub(super) fn cidr_range(network: &IpNet) -> CidrRange {
    CidrRange { address_prefix: network.addr().to_string(), prefix_len: wkt::uint32(network.prefix_len().into()) }
}

/// Matches exactly this.
pub(super) fn exact(text: &str) -> StringMatcher {
    matcher(MatchPattern::Exact(text.into()))
}

/// Matches what begins like this.
pub(super) fn begins_with(prefix: &str) -> StringMatcher {
    matcher(MatchPattern::Prefix(prefix.into()))
}

/// Matches what ends like this.
pub(super) fn ends_with(suffix: &str) -> StringMatcher {
    matcher(MatchPattern::Suffix(suffix.into()))
}

/// Matches all of a text by a regular expression.
pub(super) fn regex(expression: &str) -> StringMatcher {
    matcher(MatchPattern::SafeRegex(RegexMatcher { regex: expression.into(), ..RegexMatcher::default() }))
}

fn matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

/// Returns a text in which nothing is special to a regular expression.
pub(super) fn quoted(text: &str) -> String {
    let special = |letter: &char| r"\.+*?()|[]{}^$".contains(*letter);
    text.chars().flat_map(|letter| special(&letter).then_some('\\').into_iter().chain([letter])).collect()
}

enum Wildcard<'a> {
    Any,
    Suffix(&'a str),
    Prefix(&'a str),
    Exact,
}

fn wildcard(pattern: &str) -> Wildcard<'_> {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => Wildcard::Any,
        (Some(suffix), _) => Wildcard::Suffix(suffix),
        (None, Some(prefix)) => Wildcard::Prefix(prefix),
        (None, None) => Wildcard::Exact,
    }
}

/// Matches one of these texts.
pub(super) fn one_text_of(patterns: &[SmolStr]) -> ValueMatcher {
    one_of(patterns.iter().map(|pattern| text_value(text(pattern))).collect())
}

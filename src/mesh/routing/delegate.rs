//! Merges a delegate's HTTP route into the root's route that names it (contract §6.2, delegates).

use smol_str::{SmolStr, format_smolstr};

use crate::api::{
    Labels,
    istio::{HttpMatch, HttpRoute, StringMatch},
};

/// The merged route; `None` when the delegate's matches contradict the root's. Names in both must be full already.
pub(super) fn merge(root: &HttpRoute, leaf: HttpRoute) -> Option<HttpRoute> {
    let matches = merge_matches(&root.matches, &leaf.matches)?;
    Some(HttpRoute {
        name: joined(&root.name, &leaf.name),
        matches,
        rewrite: leaf.rewrite.or_else(|| root.rewrite.clone()),
        direct_response: leaf.direct_response.or_else(|| root.direct_response.clone()),
        timeout: leaf.timeout.or(root.timeout),
        retries: leaf.retries.or_else(|| root.retries.clone()),
        fault: leaf.fault.or_else(|| root.fault.clone()),
        mirrors: if leaf.mirrors.is_empty() { root.mirrors.clone() } else { leaf.mirrors },
        cors: leaf.cors.or_else(|| root.cors.clone()),
        headers: leaf.headers.or_else(|| root.headers.clone()),
        ..leaf
    })
}

/// Every match of the delegate must fit into some match of the root; each fitting pair gives their conjunction.
fn merge_matches(root: &[HttpMatch], leaf: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() || leaf.is_empty() {
        return Some(if root.is_empty() { leaf.to_vec() } else { root.to_vec() });
    }
    let mut merged = Vec::new();
    for narrow in leaf {
        let before = merged.len();
        merged.extend(root.iter().filter(|wide| fits(wide, narrow)).map(|wide| conjunction(wide, narrow)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn fits(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    root.ignore_uri_case == leaf.ignore_uri_case
        && text_fits(root.uri.as_ref(), leaf.uri.as_ref())
        && text_fits(root.scheme.as_ref(), leaf.scheme.as_ref())
        && text_fits(root.method.as_ref(), leaf.method.as_ref())
        && text_fits(root.authority.as_ref(), leaf.authority.as_ref())
        && named_fit(&root.headers, &leaf.headers)
        && named_fit(&root.without_headers, &leaf.without_headers)
        && named_fit(&root.query_params, &leaf.query_params)
        && same_or_unset(root.port.as_ref(), leaf.port.as_ref())
        && same_or_unset(root.source_namespace.as_ref(), leaf.source_namespace.as_ref())
        && root.source_labels.iter().all(|(name, value)| same_or_unset(Some(value), leaf.source_labels.get(name)))
        && (root.gateways.is_empty() || leaf.gateways.iter().all(|gateway| root.gateways.contains(gateway)))
}

fn text_fits(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, Prefix};
    match (root, leaf) {
        (None, _) | (_, None) => true,
        (Some(Prefix(root)), Some(Prefix(leaf) | Exact(leaf))) => leaf.starts_with(root.as_str()),
        (Some(root), Some(leaf)) => root == leaf,
    }
}

fn named_fit(root: &[(SmolStr, StringMatch)], leaf: &[(SmolStr, StringMatch)]) -> bool {
    let of = |name: &SmolStr| leaf.iter().find(|(other, _)| other == name).map(|(_, matched)| matched);
    root.iter().all(|(name, matched)| text_fits(Some(matched), of(name)))
}

fn same_or_unset<T: PartialEq>(root: Option<&T>, leaf: Option<&T>) -> bool {
    root.is_none() || leaf.is_none() || root == leaf
}

fn conjunction(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    HttpMatch {
        name: joined(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        ignore_uri_case: leaf.ignore_uri_case,
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: both(&root.headers, &leaf.headers),
        without_headers: both(&root.without_headers, &leaf.without_headers),
        query_params: both(&root.query_params, &leaf.query_params),
        port: leaf.port.or(root.port),
        source_labels: root.source_labels.iter().chain(&leaf.source_labels).map(|(k, v)| (k.clone(), v.clone())).collect::<Labels>(),
        source_namespace: leaf.source_namespace.clone().or_else(|| root.source_namespace.clone()),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        stat_prefix: if leaf.stat_prefix.is_empty() { root.stat_prefix.clone() } else { leaf.stat_prefix.clone() },
    }
}

/// The delegate's matcher where both have one: it is the narrower.
fn both(root: &[(SmolStr, StringMatch)], leaf: &[(SmolStr, StringMatch)]) -> Vec<(SmolStr, StringMatch)> {
    let only_root = root.iter().filter(|(name, _)| !leaf.iter().any(|(other, _)| other == name));
    let mut all: Vec<_> = only_root.chain(leaf).cloned().collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn joined(root: &SmolStr, leaf: &SmolStr) -> SmolStr {
    match (root.is_empty(), leaf.is_empty()) {
        (_, true) => root.clone(),
        (true, false) => leaf.clone(),
        (false, false) => format_smolstr!("{root}-{leaf}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(matched: StringMatch) -> Vec<HttpMatch> {
        vec![HttpMatch { uri: Some(matched), ..Default::default() }]
    }

    fn route(name: &str, matches: Vec<HttpMatch>) -> HttpRoute {
        HttpRoute { name: name.into(), matches, ..Default::default() }
    }

    #[test]
    fn a_delegate_may_only_narrow_the_prefix() {
        let root = route("root", uri(StringMatch::Prefix("/shop".into())));
        let kept = merge(&root, route("leaf", uri(StringMatch::Exact("/shop/cart".into())))).unwrap();
        assert_eq!((kept.name.as_str(), &kept.matches), ("root-leaf", &uri(StringMatch::Exact("/shop/cart".into()))));
        assert_eq!(merge(&root, route("leaf", uri(StringMatch::Prefix("/other".into())))), None);
        assert_eq!(merge(&root, route("", Vec::new())).unwrap().matches, root.matches);
    }

    #[test]
    fn what_a_delegate_does_not_say_comes_from_the_root() {
        let second = Some(std::time::Duration::from_secs(1));
        let root = HttpRoute { timeout: second, ..route("", Vec::new()) };
        assert_eq!(merge(&root, route("", Vec::new())).unwrap().timeout, second);
    }
}

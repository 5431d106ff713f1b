//! Merges a delegate's HTTP rule into the root's rule that names the delegate (contract §6.2, delegates).

use std::collections::BTreeMap;

use smol_str::{SmolStr, format_smolstr};

use super::model::{ClaimMatch, HeaderMatch, HttpAction, HttpMatch, HttpRule, QueryParameterMatch, StringMatch};
use crate::visits::{Visit, Visited};

/// How many matches may come of delegates: a match of the root and one of the delegate may become one of their own.
pub(super) const MOST_MATCHES: usize = 200_000;

/// Returns the merged rule, which has the delegate's source and place; `None` when the delegate's matches contradict the root's.
pub(super) fn merge(root: &HttpRule, leaf: HttpRule) -> Option<HttpRule> {
    let matches = merge_matches(&root.matches, &leaf.matches)?;
    Some(HttpRule {
        name: joined(&root.name, &leaf.name),
        matches,
        action: merge_actions(&root.action, leaf.action),
        timeout: leaf.timeout.or(root.timeout),
        retries: leaf.retries.or_else(|| root.retries.clone()),
        fault: leaf.fault.or_else(|| root.fault.clone()),
        mirrors: if leaf.mirrors.is_empty() { root.mirrors.clone() } else { leaf.mirrors },
        cors: leaf.cors.or_else(|| root.cors.clone()),
        headers: leaf.headers.or_else(|| root.headers.clone()),
        rewrite: leaf.rewrite.or_else(|| root.rewrite.clone()),
        source: leaf.source,
        precedence: leaf.precedence,
    })
}

// Beside `delegate` the root can only have `directResponse`, which wins over destinations.
fn merge_actions(root: &HttpAction, leaf: HttpAction) -> HttpAction {
    match (root, leaf) {
        (HttpAction::DirectResponse { .. }, HttpAction::Forward(_)) => root.clone(),
        (_, leaf) => leaf,
    }
}

/// Merges the matches of a delegate with those of its root. Every match of the delegate must fit into one of the root;
/// each pair that fits becomes their conjunction.
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
    root.ignore_path_case == leaf.ignore_path_case
        && text_fits(root.path.as_ref(), leaf.path.as_ref())
        && text_fits(root.scheme.as_ref(), leaf.scheme.as_ref())
        && text_fits(root.method.as_ref(), leaf.method.as_ref())
        && text_fits(root.authority.as_ref(), leaf.authority.as_ref())
        && named_fit(&root.headers, &leaf.headers)
        && named_fit(&root.claims, &leaf.claims)
        && named_fit(&root.query_parameters, &leaf.query_parameters)
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

/// A matcher of something that has a name: a header, a claim or a query parameter.
trait NamedMatch: Clone {
    /// Orders matchers; of one key a match has at most one.
    fn key(&self) -> (&SmolStr, bool);

    fn value(&self) -> &StringMatch;
}

impl NamedMatch for HeaderMatch {
    fn key(&self) -> (&SmolStr, bool) {
        (&self.name, self.inverted)
    }

    fn value(&self) -> &StringMatch {
        &self.value
    }
}

impl NamedMatch for ClaimMatch {
    fn key(&self) -> (&SmolStr, bool) {
        (&self.name, self.inverted)
    }

    fn value(&self) -> &StringMatch {
        &self.value
    }
}

impl NamedMatch for QueryParameterMatch {
    fn key(&self) -> (&SmolStr, bool) {
        (&self.name, false)
    }

    fn value(&self) -> &StringMatch {
        &self.value
    }
}

fn named_fit<M: NamedMatch>(root: &[M], leaf: &[M]) -> bool {
    let leaf = by_key(leaf);
    root.iter().all(|matcher| text_fits(Some(matcher.value()), leaf.get(&matcher.key()).map(|of| of.value())))
}

/// Returns the matchers of both; where both have one of a name, the delegate's, which is the narrower.
fn both<M: NamedMatch>(root: &[M], leaf: &[M]) -> Vec<M> {
    let mut all = by_key(root);
    all.extend(by_key(leaf));
    all.into_values().cloned().collect()
}

fn by_key<M: NamedMatch>(matchers: &[M]) -> BTreeMap<(&SmolStr, bool), &M> {
    matchers.iter().visiting(Visited::Written).map(|matcher| (matcher.key(), matcher)).collect()
}

fn same_or_unset<T: PartialEq>(root: Option<&T>, leaf: Option<&T>) -> bool {
    root.is_none() || leaf.is_none() || root == leaf
}

fn conjunction(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    HttpMatch {
        name: joined(&root.name, &leaf.name),
        path: leaf.path.clone().or_else(|| root.path.clone()),
        ignore_path_case: leaf.ignore_path_case,
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: both(&root.headers, &leaf.headers),
        query_parameters: both(&root.query_parameters, &leaf.query_parameters),
        port: leaf.port.or(root.port),
        source_labels: root.source_labels.iter().chain(&leaf.source_labels).map(|(k, v)| (k.clone(), v.clone())).collect(),
        source_namespace: leaf.source_namespace.clone().or_else(|| root.source_namespace.clone()),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        stat_prefix: if leaf.stat_prefix.is_empty() { root.stat_prefix.clone() } else { leaf.stat_prefix.clone() },
        claims: both(&root.claims, &leaf.claims),
    }
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
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::{Kind, ObjectKey},
        mesh::{
            model::Origin,
            routing::model::{GatewayRef, RulePrecedence, RuleSource},
        },
    };

    fn path(matched: StringMatch) -> HttpMatch {
        HttpMatch { path: Some(matched), ..Default::default() }
    }

    fn header(name: &str, value: StringMatch, inverted: bool) -> HeaderMatch {
        HeaderMatch { name: name.into(), value, inverted }
    }

    fn rule(object: &str, matches: Vec<HttpMatch>) -> HttpRule {
        let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: object.into() };
        let origin = Origin { object: key, generation: 1 };
        HttpRule {
            source: RuleSource { origin: origin.into(), field: "spec.http[3]".into() },
            precedence: RulePrecedence { object: Arc::default(), position: 3 },
            name: object.into(),
            matches,
            action: HttpAction::Forward(Vec::new()),
            timeout: None,
            retries: None,
            fault: None,
            mirrors: Vec::new(),
            cors: None,
            headers: None,
            rewrite: None,
        }
    }

    #[test]
    fn a_delegate_may_only_narrow_the_prefix() {
        let root = rule("root", vec![path(StringMatch::Prefix("/shop".into()))]);
        let exact = vec![path(StringMatch::Exact("/shop/cart".into()))];
        let kept = merge(&root, rule("leaf", exact.clone())).unwrap();
        assert_eq!((kept.name.as_str(), &kept.matches), ("root-leaf", &exact));
        assert_eq!(merge(&root, rule("leaf", vec![path(StringMatch::Prefix("/other".into()))])), None);
        assert_eq!(merge(&root, rule("", Vec::new())).unwrap().matches, root.matches);
    }

    #[test]
    fn what_a_delegate_does_not_say_comes_from_the_root_and_the_source_from_the_delegate() {
        let root = HttpRule { timeout: Some(Duration::from_secs(1)), ..rule("root", Vec::new()) };
        let leaf = rule("leaf", Vec::new());
        let merged = merge(&root, leaf.clone()).unwrap();
        assert_eq!((merged.timeout, merged.source), (root.timeout, leaf.source));
    }

    #[test]
    fn an_answer_of_the_root_wins_over_destinations_only() {
        let answer = HttpAction::DirectResponse { status: 404, body: Vec::new().into() };
        let root = HttpRule { action: answer.clone(), ..rule("root", Vec::new()) };
        assert_eq!(merge(&root, rule("leaf", Vec::new())).unwrap().action, answer);
        let other = HttpAction::DirectResponse { status: 410, body: Vec::new().into() };
        let leaf = HttpRule { action: other.clone(), ..rule("leaf", Vec::new()) };
        assert_eq!(merge(&root, leaf).unwrap().action, other);
    }

    #[test]
    fn headers_that_must_and_must_not_match_are_merged_apart() {
        let present = || StringMatch::Present;
        let root = HttpMatch { headers: vec![header("a", present(), false), header("b", present(), true)], ..Default::default() };
        let leaf = HttpMatch { headers: vec![header("a", present(), true), header("c", present(), false)], ..Default::default() };
        let [merged] = &merge(&rule("root", vec![root]), rule("leaf", vec![leaf])).unwrap().matches[..] else { panic!("one match") };
        let keys: Vec<_> = merged.headers.iter().map(|header| (header.name.as_str(), header.inverted)).collect();
        assert_eq!(keys, [("a", false), ("a", true), ("b", true), ("c", false)]);
    }

    #[test]
    fn claims_of_both_are_asked_for_and_those_of_one_must_fit() {
        let claim = |name: &str, value: &str| {
            let claims = vec![ClaimMatch {
                name: format_smolstr!("@request.auth.claims.{name}"),
                path: vec![name.into()],
                value: StringMatch::Exact(value.into()),
                inverted: false,
            }];
            vec![HttpMatch { claims, ..Default::default() }]
        };
        let merged = merge(&rule("root", claim("a", "x")), rule("leaf", claim("b", "y"))).unwrap();
        let claims: Vec<_> = merged.matches[0].claims.iter().map(|claim| claim.path[0].as_str()).collect();
        assert_eq!(claims, ["a", "b"]);
        assert_eq!(merge(&rule("root", claim("a", "x")), rule("leaf", claim("a", "y"))), None);
        assert_eq!(merge(&rule("root", claim("a", "x")), rule("leaf", Vec::new())).unwrap().matches, claim("a", "x"));
    }

    #[test]
    fn a_delegate_may_not_reach_other_gateways() {
        let at = |name: &str| HttpMatch { gateways: vec![GatewayRef::istio(&"infra".into(), &name.into())], ..Default::default() };
        let root = rule("root", vec![at("public")]);
        assert_eq!(merge(&root, rule("leaf", vec![at("private")])), None);
        assert_eq!(merge(&root, rule("leaf", vec![HttpMatch::default()])).unwrap().matches, root.matches);
    }
}

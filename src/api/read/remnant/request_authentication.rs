//! Of a RequestAuthentication its rules hold; of one that is wrong what can be read, without keys: tokens that nobody verifies would
//! pass, and the headers that are made of them would be whatever the client says.

use std::sync::Arc;

use serde_json::Value;

use super::{Left, alone, field, field_of, is_right, target};
use crate::api::{
    ObjectKey, Spec,
    istio::{ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication},
    read::fields::Read,
};

/// Returns the policy with its rules, if there are any.
pub(super) fn left(key: &ObjectKey, spec: &Value) -> Option<Left> {
    let rules = match field(spec, "jwtRules", |node| Some(node.value.as_array()?.clone())) {
        None => return None,
        Some(None) => vec![closed(key, &Value::Null)],
        Some(Some(rules)) => rules.iter().map(|rule| whole(key, rule).unwrap_or_else(|| closed(key, rule))).collect(),
    };
    let authentication = RequestAuthentication { target: target(spec), rules };
    let consequence = "its rules hold where they can be read, and of an issuer whose rule cannot no token is good".to_owned();
    (!authentication.rules.is_empty()).then(|| Left { spec: Spec::RequestAuthentication(Arc::new(authentication)), consequence })
}

/// Returns a rule in which nothing is wrong.
fn whole(key: &ObjectKey, rule: &Value) -> Option<JwtRule> {
    alone(rule, JwtRule::read).filter(|rule| is_good(key, rule.clone()))
}

/// Returns what of a rule says where its tokens stand and which headers are made of them.
fn closed(key: &ObjectKey, rule: &Value) -> JwtRule {
    let base = JwtRule { refused: true, ..JwtRule::default() };
    let good = |rule: &JwtRule| is_good(key, JwtRule { issuer: "any".into(), ..rule.clone() });
    let headers: Vec<JwtHeader> = list(rule, "fromHeaders");
    let outputs: Vec<ClaimToHeader> = list(rule, "outputClaimToHeaders");
    JwtRule {
        issuer: field_of(rule, "issuer").flatten().unwrap_or_default(),
        from_headers: kept(headers, |header| good(&JwtRule { from_headers: vec![header.clone()], ..base.clone() })),
        from_params: list(rule, "fromParams"),
        from_cookies: list(rule, "fromCookies"),
        output_payload_to_header: field_of(rule, "outputPayloadToHeader")
            .flatten()
            .filter(|name: &smol_str::SmolStr| good(&JwtRule { output_payload_to_header: name.clone(), ..base.clone() }))
            .unwrap_or_default(),
        output_claim_to_headers: kept(outputs, |output| good(&JwtRule { output_claim_to_headers: vec![output.clone()], ..base.clone() })),
        ..base
    }
}

fn list<T: Read>(rule: &Value, name: &'static str) -> Vec<T> {
    let elements = field(rule, name, |node| Some(node.value.as_array()?.clone())).flatten().unwrap_or_default();
    elements.iter().filter_map(|element| alone(element, T::read)).collect()
}

fn kept<T>(mut list: Vec<T>, good: impl Fn(&T) -> bool) -> Vec<T> {
    list.retain(good);
    list
}

fn is_good(key: &ObjectKey, rule: JwtRule) -> bool {
    let authentication = RequestAuthentication { rules: vec![rule], ..RequestAuthentication::default() };
    is_right(key, Spec::RequestAuthentication(Arc::new(authentication)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    fn left_of(spec: &str) -> Option<RequestAuthentication> {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
        );
        let mut parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.objects.len(), 0, "{spec} is to be refused");
        let remnant = parsed.refused.remove(0).remnant?;
        let Spec::RequestAuthentication(policy) = &remnant.object.spec else { panic!("a policy") };
        Some(RequestAuthentication::clone(policy))
    }

    #[test]
    fn a_good_rule_stays_and_of_a_bad_one_no_token_is_good() {
        let good = "{issuer: 'https://a', jwksUri: 'https://a/keys', outputPayloadToHeader: x-a}";
        let bad = "{issuer: 'https://b', jwks: '{', fromHeaders: [{name: x-b}, {name: ':path'}], fromCookies: [b, 7], \
                   outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: 'no name', claim: a}]}";
        let left = left_of(&format!("{{selector: {{matchLabels: {{app: web}}}}, jwtRules: [{good}, {bad}]}}")).unwrap();
        assert_eq!(left.target.selector.unwrap().get("app").unwrap(), "web");
        let [good, bad] = &left.rules[..] else { panic!("{:?}", left.rules) };
        assert_eq!(
            (good.refused, good.keys_url().as_deref(), good.output_payload_to_header.as_str()),
            (false, Some("https://a/keys"), "x-a")
        );
        assert!(bad.refused && bad.keys_url().is_none() && bad.jwks.is_empty(), "{bad:?}");
        let names: Vec<&str> = bad.from_headers.iter().map(|header| header.name.as_str()).collect();
        let outputs: Vec<&str> = bad.output_claim_to_headers.iter().map(|output| output.header.as_str()).collect();
        assert_eq!((names, outputs, bad.from_cookies.len()), (vec!["x-b"], vec!["x-sub"], 1));
        assert_eq!((bad.issuer.as_str(), bad.output_payload_to_header.as_str()), ("https://b", "x-payload"));
    }

    #[test]
    fn rules_that_cannot_be_read_at_all_leave_no_token_good() {
        for spec in ["{jwtRules: 7}", "{jwtRules: [7]}", "{jwtRules: [{issuer: 7}]}"] {
            let left = left_of(spec).unwrap();
            assert!(left.rules.len() == 1 && left.rules[0].refused && left.rules[0].issuer.is_empty(), "{spec}: {left:?}");
        }
        assert_eq!(left_of("{selector: 7}"), None);
        assert_eq!(left_of("{selector: 7, jwtRules: []}"), None);
    }
}

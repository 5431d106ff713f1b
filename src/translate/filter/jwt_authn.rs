//! `envoy.filters.http.jwt_authn`: which tokens are good (contract §6.6).
//!
//! A token that is there must be good; a request without one passes. What may be done with which token is said by
//! AuthorizationPolicies, which read what this filter notes of it.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{DataSource, data_source},
        route::v3::{RouteMatch, route_match::PathSpecifier},
    },
    extensions::filters::http::jwt_authn::v3::{
        JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList, JwtRequirementOrList,
        RequirementRule,
        jwt_provider::{JwksSourceSpecifier, NormalizePayload},
        jwt_requirement::RequiresType,
        requirement_rule::RequirementType,
    },
};

use crate::mesh::policy::request_authentication::{TokenRule, TokenRules};

/// The filter's name, under which it notes what it knows of a token.
pub const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// Under which name it notes a token's claims.
pub const PAYLOAD: &str = "payload";

/// A key set that verifies nothing. The first coordinate of its point is a hash of these words, so that whoever doubts it sees that
/// nobody has a private key to it: SHA-256 of `istiod-lite: nobody has the private half of this key 1`.
const NOBODYS_KEYS: &str = r#"{"keys":[{"alg":"ES256","crv":"P-256","kid":"nobody","kty":"EC","x":"2AQnw_LVvkQb81SOAWW8DV2Jf7Eip6yNFCEBsQcEHlk","y":"zKH22cX99-CKqp1CkpdcfquxVo2n7dQeBo7-rakurf4"}]}"#;

/// Returns the filter's configuration; `None` if the workload has no rules. At gateways routes are chosen by claims, once these are
/// known (`reroutes`).
pub(super) fn jwt_authn(tokens: &TokenRules, reroutes: bool) -> Option<JwtAuthentication> {
    let named = tokens.rules.iter().enumerate().map(|(at, rule)| (format!("origins-{at}"), provider(rule, reroutes)));
    let requirement = requirement(tokens.rules.len())?;
    let everywhere = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    Some(JwtAuthentication {
        providers: named.collect(),
        rules: vec![RequirementRule { r#match: Some(everywhere), requirement_type: Some(RequirementType::Requires(requirement)) }],
        bypass_cors_preflight: true,
        ..Default::default()
    })
}

fn provider(tokens: &TokenRule, reroutes: bool) -> JwtProvider {
    let keys = tokens.keys().unwrap_or(NOBODYS_KEYS);
    let rule = &*tokens.rule;
    let texts = |texts: &[smol_str::SmolStr]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    JwtProvider {
        issuer: rule.issuer.to_string(),
        audiences: texts(&rule.audiences),
        forward: rule.forwarded,
        from_headers: rule
            .from_headers
            .iter()
            .map(|(name, prefix)| JwtHeader { name: name.to_string(), value_prefix: prefix.to_string() })
            .collect(),
        from_params: texts(&rule.from_params),
        from_cookies: texts(&rule.from_cookies),
        forward_payload_header: rule.payload_header.to_string(),
        payload_in_metadata: PAYLOAD.into(),
        normalize_payload_in_metadata: Some(NormalizePayload { space_delimited_claims: texts(&rule.space_delimited) }),
        claim_to_headers: rule
            .claim_headers
            .iter()
            .map(|(header, claim)| JwtClaimToHeader {
                header_name: header.to_string(),
                claim_name: claim.to_string(),
                ..Default::default()
            })
            .collect(),
        clear_route_cache: reroutes,
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(data_source::Specifier::InlineString(keys.into())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Returns what is asked of tokens where there are so many providers; `None` for none. A token of each must be good or missing. Where
/// tokens of several stand in one place, the one that is there cannot be good for all: it is enough that it is good for one.
fn requirement(providers: usize) -> Option<JwtRequirement> {
    let of = |requires: RequiresType| JwtRequirement { requires_type: Some(requires) };
    let any = |requirements| of(RequiresType::RequiresAny(JwtRequirementOrList { requirements }));
    let good = |at: usize| of(RequiresType::ProviderName(format!("origins-{at}")));
    let good_or_missing = |at: usize| any(vec![good(at), of(RequiresType::AllowMissing(Default::default()))]);
    match providers {
        0 => None,
        1 => Some(good_or_missing(0)),
        several => {
            let all = JwtRequirementAndList { requirements: (0..several).map(good_or_missing).collect() };
            Some(any((0..several).map(good).chain([of(RequiresType::RequiresAll(all))]).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        digest::{SHA256, digest},
        signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey},
    };
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn nobody_has_a_key_to_what_verifies_nothing() {
        let set: serde_json::Value = serde_json::from_str(NOBODYS_KEYS).unwrap();
        let [x, y] = ["x", "y"].map(|name| URL_SAFE_NO_PAD.decode(set["keys"][0][name].as_str().unwrap()).unwrap());
        assert_eq!(x, digest(&SHA256, b"istiod-lite: nobody has the private half of this key 1").as_ref());
        // It is a point of the curve: a set that Envoy cannot read would be no set at all.
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4][..], &x, &y].concat()).unwrap();
    }

    #[test]
    fn without_rules_there_is_no_filter() {
        assert_eq!(jwt_authn(&TokenRules::default(), true), None);
    }
}

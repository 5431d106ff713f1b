//! RequestAuthentication objects: whose tokens workloads take (contract §6.6).

use std::sync::Arc;

use smol_str::SmolStr;

use crate::api::{
    istio::{self, PolicyTarget},
    key_set,
};

/// What a RequestAuthentication says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// Whose tokens they take. Shared, as what is made of them is remembered by them.
    pub rules: Vec<Arc<JwtRule>>,
}

/// Whose tokens are taken, where they stand in a request, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtRule {
    /// The issuer; empty: any.
    pub issuer: SmolStr,
    /// For whom a token must be, one of these; empty: for anyone.
    pub audiences: Vec<SmolStr>,
    /// What verifies its tokens.
    pub keys: Keys,
    /// The headers that a token stands in, with what stands before it there.
    pub from_headers: Vec<(SmolStr, SmolStr)>,
    /// The query parameters.
    pub from_params: Vec<SmolStr>,
    /// The cookies.
    pub from_cookies: Vec<SmolStr>,
    /// The header that is given the payload; empty: none.
    pub payload_header: SmolStr,
    /// Headers that are given a claim: header, then claim.
    pub claim_headers: Vec<(SmolStr, SmolStr)>,
    /// Whether the token stays in the request.
    pub forwarded: bool,
    /// Claims that are lists in one text, sorted.
    pub space_delimited: Vec<SmolStr>,
}

/// What verifies the tokens of an issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// Nothing: no token is good.
    #[default]
    Unknown,
    /// The key set that the rule holds.
    Inline(SmolStr),
    /// What is found at that URL.
    At(SmolStr),
}

/// The keys of an issuer, as they were fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchedKeys {
    /// The key set that was fetched last; `None`: none ever was. While its content is the same, it is the same.
    pub keys: Option<Arc<str>>,
    /// Why it could not be fetched again, if that is so now.
    pub trouble: Option<SmolStr>,
}

/// Claims that always are lists in one text, as in Istio.
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// Converts a RequestAuthentication.
pub(in crate::mesh) fn request_authentication(written: &istio::RequestAuthentication) -> RequestAuthentication {
    RequestAuthentication { target: written.target.clone(), rules: written.rules.iter().map(|rule| Arc::new(jwt_rule(rule))).collect() }
}

fn verifies(jwks: &str) -> bool {
    key_set::inspect(jwks).is_ok_and(|keys| keys.usable > 0)
}

fn jwt_rule(written: &istio::JwtRule) -> JwtRule {
    let mut space_delimited: Vec<SmolStr> = written.space_delimited_claims.clone();
    space_delimited.extend(SPACE_DELIMITED.map(SmolStr::from));
    space_delimited.sort();
    space_delimited.dedup();
    JwtRule {
        issuer: written.issuer.clone(),
        audiences: written.audiences.clone(),
        keys: match written.keys_url() {
            Some(url) => Keys::At(url),
            // Envoy refuses a listener that has a set with which nothing can be verified.
            None if written.refused || !verifies(&written.jwks) => Keys::Unknown,
            None => Keys::Inline(written.jwks.clone()),
        },
        from_headers: written.from_headers.iter().map(|header| (header.name.clone(), header.prefix.clone())).collect(),
        from_params: written.from_params.clone(),
        from_cookies: written.from_cookies.clone(),
        payload_header: written.output_payload_to_header.clone(),
        claim_headers: written.output_claim_to_headers.iter().map(|output| (output.header.clone(), output.claim.clone())).collect(),
        forwarded: written.forward_original_token,
        space_delimited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_the_rule_or_at_a_url_or_nowhere() {
        assert_eq!(jwt_rule(&istio::JwtRule { refused: true, jwks: "{}".into(), ..Default::default() }).keys, Keys::Unknown);
        let keys = |issuer: &str, jwks: &str, jwks_uri: &str| {
            jwt_rule(&istio::JwtRule { issuer: issuer.into(), jwks: jwks.into(), jwks_uri: jwks_uri.into(), ..Default::default() }).keys
        };
        let set = r#"{"keys":[{"crv":"Ed25519","kty":"OKP","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;
        assert_eq!(keys("https://a", set, ""), Keys::Inline(set.into()));
        for nothing in ["{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#] {
            assert_eq!(keys("https://a", nothing, ""), Keys::Unknown, "{nothing}");
        }
        assert_eq!(keys("https://a", "", "https://b/keys"), Keys::At("https://b/keys".into()));
        for issuer in ["https://a/b", "https://a/b/"] {
            assert_eq!(keys(issuer, "", ""), Keys::At("https://a/b/.well-known/openid-configuration".into()));
        }
    }

    #[test]
    fn some_claims_are_always_lists_in_one_text() {
        let claims = |more: &[&str]| {
            let space_delimited_claims = more.iter().map(SmolStr::new).collect();
            jwt_rule(&istio::JwtRule { space_delimited_claims, ..Default::default() }).space_delimited
        };
        assert_eq!(claims(&[]), ["permission", "scope"]);
        assert_eq!(claims(&["roles", "scope", "roles"]), ["permission", "roles", "scope"]);
    }
}

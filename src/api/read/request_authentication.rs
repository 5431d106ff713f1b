//! Reads a RequestAuthentication (contract §6.6).

use super::fields::{Node, Read};
use crate::api::istio::{ClaimToHeader, JwtHeader, JwtRule, PolicyTarget, RequestAuthentication};

impl Read for RequestAuthentication {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { target: PolicyTarget::of(fields), rules: fields.get("jwtRules") })
    }
}

impl Read for JwtRule {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.exclusive(&["jwks", "jwksUri"]);
            Self {
                issuer: fields.get("issuer"),
                audiences: fields.get("audiences"),
                jwks_uri: fields.get("jwksUri"),
                jwks: fields.get("jwks"),
                from_headers: fields.get("fromHeaders"),
                from_params: fields.get("fromParams"),
                from_cookies: fields.get("fromCookies"),
                output_payload_to_header: fields.get("outputPayloadToHeader"),
                forward_original_token: fields.get("forwardOriginalToken"),
                output_claim_to_headers: fields.get("outputClaimToHeaders"),
                timeout: fields.opt("timeout"),
                space_delimited_claims: fields.get("spaceDelimitedClaims"),
                refused: false,
            }
        })
    }
}

impl Read for JwtHeader {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { name: fields.get("name"), prefix: fields.get("prefix") })
    }
}

impl Read for ClaimToHeader {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { header: fields.get("header"), claim: fields.get("claim") })
    }
}

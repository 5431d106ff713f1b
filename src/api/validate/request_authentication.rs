//! Rules for RequestAuthentication.

use smol_str::SmolStr;

use super::{
    Check,
    text::{LONGEST_HEADER, is_header_name},
};
use crate::api::{
    findings::Path,
    istio::{JwtRule, RequestAuthentication},
    key_set,
};

/// How long a URL may be, in bytes.
const LONGEST_URL: usize = 2048;

impl Check<'_> {
    pub(super) fn request_authentication(self, authentication: &RequestAuthentication, at: &Path<'_>) {
        self.target(&authentication.target, at);
        let rules = at.field("jwtRules");
        for (index, rule) in authentication.rules.iter().enumerate() {
            self.jwt_rule(rule, &rules.index(index));
        }
    }

    fn jwt_rule(self, rule: &JwtRule, at: &Path<'_>) {
        if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
            self.error(&at.field("issuer"), "is missing: a rule needs an issuer or a jwksUri");
        }
        self.keys(rule, at);
        let lists = [
            ("audiences", &rule.audiences),
            ("fromParams", &rule.from_params),
            ("fromCookies", &rule.from_cookies),
            ("spaceDelimitedClaims", &rule.space_delimited_claims),
        ];
        for (field, texts) in lists {
            self.nonempty_texts(texts, &at.field(field));
        }
        let headers = at.field("fromHeaders");
        for (index, header) in rule.from_headers.iter().enumerate() {
            let at = headers.index(index);
            self.token_header(&header.name, &at.field("name"));
            self.one_line(&header.prefix, &at.field("prefix"));
        }
        if !rule.output_payload_to_header.is_empty() {
            self.token_header(&rule.output_payload_to_header, &at.field("outputPayloadToHeader"));
        }
        let outputs = at.field("outputClaimToHeaders");
        for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
            let at = outputs.index(index);
            self.token_header(&output.header, &at.field("header"));
            if output.claim.is_empty() {
                self.error(&at.field("claim"), "must not be empty");
            }
        }
        self.at_least_a_millisecond(rule.timeout, &at.field("timeout"));
    }

    fn keys(self, rule: &JwtRule, at: &Path<'_>) {
        if rule.refused {
            return;
        }
        if let Some(url) = rule.keys_url() {
            let (field, is_issuer) = if rule.jwks_uri.is_empty() { ("issuer", true) } else { ("jwksUri", false) };
            let at = at.field(field);
            match key_set::check_url(&url) {
                _ if url.len() > LONGEST_URL => self.error(&at, format!("has more than {LONGEST_URL} bytes")),
                // Istio takes it: tokens of this issuer are refused.
                Err(why) if is_issuer => {
                    self.warning(&at, format!("{why}: without jwks and jwksUri there are no keys, and no token is good"))
                }
                Err(why) => self.error(&at, why),
                Ok(()) => {}
            }
            return;
        }
        let at = at.field("jwks");
        match key_set::inspect(&rule.jwks) {
            Err(why) => self.error(&at, why),
            Ok(keys) => {
                if keys.usable == 0 {
                    self.warning(&at, "has no key that verifies a token: no token of this issuer is good");
                }
                for index in keys.private {
                    self.warning(&at, format!("key {index} has private parts: everyone who reads this object can make tokens"));
                }
            }
        }
    }

    fn nonempty_texts(self, texts: &[SmolStr], at: &Path<'_>) {
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() {
                self.error(&at.index(index), "must not be empty");
            }
        }
    }

    /// Checks the name of a header that has a token or is made of one: a pseudo-header (the path, say) would be another request.
    fn token_header(self, name: &str, at: &Path<'_>) {
        if !is_header_name(name) || name.len() > LONGEST_HEADER {
            self.error(at, format!("{name:?} is no name of a header"));
        }
    }
}

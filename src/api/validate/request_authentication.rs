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

#[cfg(test)]
mod tests {
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is said of a RequestAuthentication.
    fn said(spec: &str) -> Vec<String> {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
        );
        let parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        let severity = |said: String| said.replace("RequestAuthentication/shop/a ", "");
        parsed.diagnostics.iter().map(|finding| severity(finding.to_string())).collect()
    }

    fn said_of_rule(rule: &str) -> Vec<String> {
        let said = said(&format!("{{jwtRules: [{{{rule}}}]}}"));
        said.iter().map(|said| said.replace("spec.jwtRules[0].", "").replace("spec.jwtRules[0]: ", "")).collect()
    }

    #[test]
    fn rules_are_as_istio_wants_them() {
        let issuer = "issuer: 'https://a'";
        let with = |more: &str| said_of_rule(&format!("{issuer}, {more}"));
        let nothing = Vec::<String>::new();
        assert_eq!(said_of_rule(issuer), nothing);
        assert_eq!(said_of_rule("jwksUri: 'http://a/keys'"), nothing);
        assert_eq!(with("fromHeaders: [{name: x-token, prefix: 'Token '}], fromCookies: [a], timeout: 1ms"), nothing);
        assert_eq!(said_of_rule("audiences: [a]")[0], "error: issuer: is missing: a rule needs an issuer or a jwksUri");
        assert_eq!(with("jwks: '{\"keys\": []}', jwksUri: 'https://a'"), ["error: only one of jwks, jwksUri may be set"]);
        assert_eq!(with("jwksUri: 'ftp://a'"), [r#"error: jwksUri: "ftp://a" is no URL of http:// or https://"#]);
        assert_eq!(with("jwks: keys"), ["error: jwks: is no key set: expected value at line 1 column 1"]);
        assert_eq!(with("audiences: ['']"), ["error: audiences[0]: must not be empty"]);
        assert_eq!(with("timeout: 1us"), ["error: timeout: must be 1ms or more"]);
        assert_eq!(with("outputClaimToHeaders: [{header: x-a}]"), ["error: outputClaimToHeaders[0].claim: must not be empty"]);
        for field in ["outputPayloadToHeader: ':path'", "fromHeaders: [{name: ''}]", "outputClaimToHeaders: [{header: 'a b', claim: c}]"] {
            assert!(with(field)[0].ends_with("is no name of a header"), "{field}: {:?}", with(field));
        }
        assert_eq!(
            said_of_rule("issuer: testing@example.com"),
            [
                r#"warning: issuer: "testing@example.com/.well-known/openid-configuration" is no URL: without jwks and jwksUri there are no keys, and no token is good"#
            ]
        );
        assert_eq!(
            with(r#"jwks: '{"keys": [{"kty": "oct", "k": "AA"}]}'"#),
            ["warning: jwks: key 0 has private parts: everyone who reads this object can make tokens"]
        );
        assert_eq!(with(r#"jwks: '{"keys": []}'"#), ["warning: jwks: has no key that verifies a token: no token of this issuer is good"]);
    }

    #[test]
    fn a_policy_is_for_one_sort_of_target() {
        let target = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";
        assert_eq!(said(&format!("{{targetRefs: [{target}]}}")), Vec::<String>::new());
        assert_eq!(
            said(&format!("{{selector: {{matchLabels: {{app: a}}}}, targetRef: {target}}}")),
            ["error: spec: only one of selector, targetRef and targetRefs may be set"]
        );
        assert_eq!(
            said("{selector: {matchLabels: {app: '*'}}}"),
            [r#"error: spec.selector.matchLabels["app"]: wildcards are not possible in selectors"#]
        );
        let of_another = "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge, namespace: other}]}";
        assert_eq!(
            said(of_another),
            ["error: spec.targetRefs[0].namespace: must be left out: a policy names objects of its own namespace"]
        );
        assert!(said("{targetRef: {kind: Pod, name: a}}")[0].starts_with("error: spec.targetRef: must be a Gateway"));
        assert!(said("{targetRef: {kind: Service, name: a}}")[0].starts_with("warning: spec.targetRef: only a Gateway"));
    }
}

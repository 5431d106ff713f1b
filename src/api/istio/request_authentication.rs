//! `security.istio.io RequestAuthentication`

use std::time::Duration;

use smol_str::{SmolStr, format_smolstr};

use super::PolicyTarget;

/// `spec` of a RequestAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestAuthentication {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// `jwtRules`
    pub rules: Vec<JwtRule>,
}

/// `jwtRules[]`: whose tokens are taken, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtRule {
    /// `issuer`; empty: any.
    pub issuer: SmolStr,
    /// `audiences`; empty: any.
    pub audiences: Vec<SmolStr>,
    /// `jwksUri`
    pub jwks_uri: SmolStr,
    /// `jwks`
    pub jwks: SmolStr,
    /// `fromHeaders`
    pub from_headers: Vec<JwtHeader>,
    /// `fromParams`
    pub from_params: Vec<SmolStr>,
    /// `fromCookies`
    pub from_cookies: Vec<SmolStr>,
    /// `outputPayloadToHeader`
    pub output_payload_to_header: SmolStr,
    /// `forwardOriginalToken`
    pub forward_original_token: bool,
    /// `outputClaimToHeaders`
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// `timeout`
    pub timeout: Option<Duration>,
    /// `spaceDelimitedClaims`
    pub space_delimited_claims: Vec<SmolStr>,
    /// Whether it is what is left of a rule that was refused: no token is good by it.
    pub refused: bool,
}

/// `fromHeaders[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtHeader {
    /// `name`
    pub name: SmolStr,
    /// `prefix`
    pub prefix: SmolStr,
}

/// `outputClaimToHeaders[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimToHeader {
    /// `header`
    pub header: SmolStr,
    /// `claim`
    pub claim: SmolStr,
}

impl JwtRule {
    /// Returns where the keys are to be fetched: a key set, or the issuer's OpenID configuration, which names one. `None`: the
    /// rule has them.
    pub fn keys_url(&self) -> Option<SmolStr> {
        if self.refused {
            return None;
        }
        match (self.jwks.is_empty(), self.jwks_uri.is_empty()) {
            (false, _) => None,
            (true, false) => Some(self.jwks_uri.clone()),
            (true, true) => {
                let issuer = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
                Some(format_smolstr!("{issuer}/.well-known/openid-configuration"))
            }
        }
    }
}

//! Tokens whose signature we check ourselves, against public keys from a file.
//!
//! This is for the folder source, whose issuer is [`local_issuer`](super::local_issuer). In Kubernetes a signature check
//! alone would accept tokens of pods that are gone: there TokenReview decides.

use std::{fs, path::Path};

use futures::future::BoxFuture;
use jiff::Timestamp;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet},
};
use serde::Deserialize;
use smol_str::SmolStr;

use super::{authenticate::TokenVerifier, is_plain_name};
use crate::mesh::model::SpiffeId;

/// How far clocks may be apart, in seconds.
const LEEWAY: i64 = 30;
/// A token is not longer.
const LONGEST_TOKEN: usize = 16 << 10;
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// Checks tokens against a set of public keys.
pub struct KeySetVerifier {
    keys: Vec<VerifyingKey>,
    issuer: String,
    audiences: Vec<String>,
    trust_domain: SmolStr,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not a JWT.
    #[error("not a JSON web token: {0}")]
    Malformed(String),
    /// Its algorithm is none that a key of ours has: symmetric ones and `none` never are.
    #[error("algorithm of the token is not that of a known key")]
    Algorithm,
    /// No key of ours made the signature.
    #[error("signature is not by a known key")]
    Signature,
    /// Too late.
    #[error("expired at {0}")]
    Expired(i64),
    /// Too early.
    #[error("not valid before {0}")]
    NotYetValid(i64),
    /// Another issuer's.
    #[error("issuer {0:?} is not the expected one")]
    Issuer(String),
    /// For somebody else.
    #[error("audience {0:?} has none of the expected ones")]
    Audience(Vec<String>),
    /// Not a service account.
    #[error("subject {0:?} is not system:serviceaccount:<namespace>:<name>")]
    Subject(String),
    /// The one who should decide could not be asked.
    #[error("cannot be checked now: {0}")]
    Unavailable(String),
}

/// Why a key set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Neither a JWKS nor a public key in PEM.
    #[error("{path}: neither a JSON web key set nor a PEM public key: {reason}")]
    Format {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A key that anybody who verifies could also sign with, or of a kind not supported.
    #[error("{path}: key {kid:?} is not an RSA, P-256, P-384 or Ed25519 public key")]
    Key {
        /// The file.
        path: String,
        /// Its id.
        kid: Option<String>,
    },
}

struct VerifyingKey {
    id: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
    exp: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Audience {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

// === impl KeySetVerifier ===

impl KeySetVerifier {
    /// Reads a JWKS or a PEM public key; takes tokens of `issuer` for any of `audiences` as identities of `trust_domain`.
    pub fn open(path: &Path, issuer: &str, audiences: &[String], trust_domain: &str) -> Result<Self, KeySetError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| KeySetError::Io { path: name.clone(), error })?;
        let keys = if text.trim_start().starts_with("-----BEGIN") { read_pem(&text, &name)? } else { read_set(&text, &name)? };
        Ok(Self { keys, issuer: issuer.into(), audiences: audiences.to_vec(), trust_domain: trust_domain.into() })
    }

    fn check(&self, token: &str, now: Timestamp) -> Result<SpiffeId, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::Malformed("too long".into()));
        }
        let claims = self.verified_claims(token)?;
        self.check_claims(&claims, now.as_second())?;
        identity_of(&claims.sub, &self.trust_domain)
    }

    fn verified_claims(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| TokenError::Malformed(error.to_string()))?;
        let named = |key: &&VerifyingKey| header.kid.is_none() || key.id.is_none() || header.kid == key.id;
        let mut refusal = TokenError::Algorithm;
        for key in self.keys.iter().filter(named) {
            // The key chooses the algorithm; what the token claims only has to agree.
            if !key.algorithms.contains(&header.alg) {
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, &key.key, &signature_only(header.alg)) {
                Ok(data) => return Ok(data.claims),
                Err(error) => refusal = refused(&error),
            }
        }
        Err(refusal)
    }

    fn check_claims(&self, claims: &Claims, now: i64) -> Result<(), TokenError> {
        // Whole seconds suffice; a float beyond i64 saturates, which keeps the comparison right.
        let expiry = claims.exp.map(|seconds| seconds as i64).ok_or_else(|| TokenError::Malformed("no exp".into()))?;
        if expiry.saturating_add(LEEWAY) <= now {
            return Err(TokenError::Expired(expiry));
        }
        if let Some(begin) = claims.nbf.map(|seconds| seconds as i64).filter(|begin| begin.saturating_sub(LEEWAY) > now) {
            return Err(TokenError::NotYetValid(begin));
        }
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer(claims.iss.clone()));
        }
        let audiences = claims.aud.list();
        if !audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(TokenError::Audience(audiences.to_vec()));
        }
        Ok(())
    }
}

impl TokenVerifier for KeySetVerifier {
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<SpiffeId, TokenError>> {
        Box::pin(std::future::ready(self.check(token, now)))
    }
}

impl Audience {
    fn list(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

/// `system:serviceaccount:<namespace>:<name>` as an identity.
pub fn identity_of(subject: &str, trust_domain: &str) -> Result<SpiffeId, TokenError> {
    let account = subject.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) if is_plain_name(namespace) && is_plain_name(name) => {
            Ok(SpiffeId { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: name.into() })
        }
        _ => Err(TokenError::Subject(subject.to_owned())),
    }
}

/// The claims are checked by us, against the clock that was handed in.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

fn refused(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed(error.to_string()),
    }
}

fn read_set(text: &str, path: &str) -> Result<Vec<VerifyingKey>, KeySetError> {
    let set: JwkSet = serde_json::from_str(text).map_err(|error| KeySetError::Format { path: path.into(), reason: error.to_string() })?;
    set.keys
        .iter()
        .map(|jwk| {
            let unsupported = || KeySetError::Key { path: path.into(), kid: jwk.common.key_id.clone() };
            let algorithms = algorithms_of(jwk).ok_or_else(unsupported)?;
            let key = DecodingKey::from_jwk(jwk).map_err(|_| unsupported())?;
            Ok(VerifyingKey { id: jwk.common.key_id.clone(), key, algorithms })
        })
        .collect()
}

const RSA: [Algorithm; 6] = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

fn algorithms_of(jwk: &Jwk) -> Option<Vec<Algorithm>> {
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Some(RSA.to_vec()),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(vec![Algorithm::ES256]),
            EllipticCurve::P384 => Some(vec![Algorithm::ES384]),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(_) => Some(vec![Algorithm::EdDSA]),
        _ => None,
    }
}

fn read_pem(text: &str, path: &str) -> Result<Vec<VerifyingKey>, KeySetError> {
    let unsupported = || KeySetError::Key { path: path.into(), kid: None };
    let block = pem::parse(text).map_err(|error| KeySetError::Format { path: path.into(), reason: error.to_string() })?;
    if block.tag() != "PUBLIC KEY" {
        return Err(KeySetError::Format { path: path.into(), reason: format!("a PEM block {}", block.tag()) });
    }
    let key = rcgen::SubjectPublicKeyInfo::from_der(block.contents()).map_err(|_| unsupported())?;
    let algorithm = rcgen::PublicKeyData::algorithm(&key);
    let (key, algorithms) = if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
        (DecodingKey::from_ec_pem(text.as_bytes()), vec![Algorithm::ES256])
    } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
        (DecodingKey::from_ec_pem(text.as_bytes()), vec![Algorithm::ES384])
    } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
        (DecodingKey::from_rsa_pem(text.as_bytes()), RSA.to_vec())
    } else {
        return Err(unsupported());
    };
    Ok(vec![VerifyingKey { id: None, key: key.map_err(|_| unsupported())?, algorithms }])
}

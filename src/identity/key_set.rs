//! The public keys by which tokens are verified. The key decides the algorithm, never the token.

use std::{fs, path::Path};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet},
};
use tracing::warn;

use super::{
    certificate::flaw_of_pem,
    token::{Claims, TokenError},
};
use crate::{peer_text::PeerText, system_error::explain};

/// The longest token that is read.
const LONGEST_TOKEN: usize = 16 << 10;
/// The most keys that are read; a cluster has one, and two while it changes them.
const MOST_KEYS: usize = 64;

/// The public keys of an issuer.
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

/// Why a key set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The file cannot be read.
    #[error("{path}: {}; --token-issuer-dir names a folder that `istiod-lite ca issuer` made", explain(error))]
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
    /// A symmetric key, with which whoever verifies could also sign, or a kind of key that is not supported.
    #[error("{path}: key {kid:?} is not an RSA, P-256, P-384 or Ed25519 public key")]
    Key {
        /// The file.
        path: String,
        /// Its id.
        kid: Option<String>,
    },
}

// === impl KeySet ===

impl KeySet {
    /// Reads a JWKS or a PEM public key; every key must be usable.
    pub fn open(path: &Path) -> Result<Self, KeySetError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| KeySetError::Io { path: name.clone(), error })?;
        let keys = if text.trim_start().starts_with("-----BEGIN") { read_pem(&text, &name)? } else { read_set(&text, &name)? };
        Ok(Self { keys })
    }

    /// Reads the JWKS that `place` serves. A key of an unknown kind is skipped, as others skip it.
    pub fn from_served(text: &str, place: &str) -> Result<Self, KeySetError> {
        let set = parse_set(text, place)?;
        let read = set.keys.iter().take(MOST_KEYS).map(|jwk| read_key(jwk, place));
        let keys: Vec<_> = read.filter_map(|key| key.inspect_err(|error| warn!(%error, "passed over")).ok()).collect();
        match keys.is_empty() {
            true => Err(KeySetError::Format { path: place.into(), reason: "no usable key".into() }),
            false => Ok(Self { keys }),
        }
    }

    /// Returns the claims of a token that a key of this set signed. Times, issuer and audience are not checked.
    pub(super) fn verified_claims(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::Malformed("too long".into()));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| TokenError::Malformed(PeerText::new(&error.to_string())))?;
        if !ASYMMETRIC.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        let named = |key: &&VerifyingKey| header.kid.is_none() || key.id.is_none() || header.kid == key.id;
        let mut refusal = TokenError::UnknownKey;
        for key in self.keys.iter().filter(named) {
            // The key decides the algorithm; the token only has to agree.
            if !key.algorithms.contains(&header.alg) {
                refusal = TokenError::Algorithm;
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, &key.key, &signature_only(header.alg)) {
                Ok(data) => return Ok(data.claims),
                Err(error) => refusal = refused(&error),
            }
        }
        Err(refusal)
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

struct VerifyingKey {
    id: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Checks the signature only: we check the claims ourselves, by the clock that was handed in.
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
        _ => TokenError::Malformed(PeerText::new(&error.to_string())),
    }
}

fn parse_set(text: &str, path: &str) -> Result<JwkSet, KeySetError> {
    serde_json::from_str(text).map_err(|error| KeySetError::Format { path: path.into(), reason: error.to_string() })
}

fn read_set(text: &str, path: &str) -> Result<Vec<VerifyingKey>, KeySetError> {
    parse_set(text, path)?.keys.iter().map(|jwk| read_key(jwk, path)).collect()
}

fn read_key(jwk: &Jwk, path: &str) -> Result<VerifyingKey, KeySetError> {
    let unsupported = || KeySetError::Key { path: path.into(), kid: jwk.common.key_id.clone() };
    let algorithms = algorithms_of(jwk).ok_or_else(unsupported)?;
    let key = DecodingKey::from_jwk(jwk).map_err(|_| unsupported())?;
    Ok(VerifyingKey { id: jwk.common.key_id.clone(), key, algorithms })
}

const ASYMMETRIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
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
    let block = pem::parse(text).map_err(|error| KeySetError::Format { path: path.into(), reason: flaw_of_pem(&error).into() })?;
    if block.tag() != "PUBLIC KEY" {
        return Err(KeySetError::Format { path: path.into(), reason: "a PEM block, but no PUBLIC KEY".into() });
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

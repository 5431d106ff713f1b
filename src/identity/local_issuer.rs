//! An issuer of service-account tokens for the folder source: for the demo, tests, and meshes without Kubernetes.
//!
//! Whoever can read `issuer-key.pem` can be any workload. The control plane needs `jwks.json` only.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::{
    is_plain_name,
    key::{KeyError, KeyType, PrivateKey},
};
use crate::system_error::explain;

/// The private key, in the issuer's folder.
pub const KEY_FILE: &str = "issuer-key.pem";
/// The public keys, in the issuer's folder.
pub const KEY_SET_FILE: &str = "jwks.json";
/// The issuer's name, unless another is chosen.
pub const DEFAULT_ISSUER: &str = "istiod-lite-local";
/// What tokens are for (`TOKEN_AUDIENCES`, contract §4.2).
pub const DEFAULT_AUDIENCE: &str = "istio-ca";

/// Issues tokens.
pub struct LocalIssuer {
    key: PrivateKey,
    name: String,
}

/// A request for a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// Namespace of the service account.
    pub namespace: &'a str,
    /// The service account.
    pub service_account: &'a str,
    /// The audience (`aud`).
    pub audience: &'a str,
    /// How long it is valid.
    pub ttl: Duration,
}

/// Why there is no token, or no issuer.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file cannot be read.
    #[error("{}: {}; `istiod-lite ca issuer` makes the folder of an issuer", path.display(), explain(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The key cannot be used.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// A name that is not valid.
    #[error("{0:?} is not a name of a namespace or service account")]
    Name(String),
    /// The key is not P-256, or the crypto library refused.
    #[error("signing failed: {0}")]
    Signing(String),
}

// === impl LocalIssuer ===

impl LocalIssuer {
    /// Makes an issuer with a new key.
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        Ok(Self { key: PrivateKey::generate(KeyType::P256)?, name: name.into() })
    }

    /// Reads the key of an issuer's folder.
    pub fn open(folder: &Path, name: &str) -> Result<Self, IssuerError> {
        let path = folder.join(KEY_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| IssuerError::Io { path: path.clone(), error })?;
        let key = PrivateKey::from_pem(&text).map_err(|error| IssuerError::Key { path, error })?;
        Ok(Self { key, name: name.into() })
    }

    /// Returns the private key, for keeping.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Returns the public key, as the JSON web key set that a control plane reads.
    pub fn key_set(&self) -> String {
        // An uncompressed point: 4, x, y.
        let (x, y) = self.key.public_key().split_at_checked(33).unwrap_or_default();
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.key_id(),
            "x": encode(x.get(1..).unwrap_or_default()), "y": encode(y),
        });
        format!("{:#}\n", json!({ "keys": [key] }))
    }

    /// Signs a token.
    pub fn token(&self, request: &TokenRequest<'_>, now: Timestamp) -> Result<String, IssuerError> {
        for name in [request.namespace, request.service_account] {
            if !is_plain_name(name) {
                return Err(IssuerError::Name(name.to_owned()));
            }
        }
        let now = now.as_second();
        let claims = json!({
            "iss": self.name,
            "sub": format!("system:serviceaccount:{}:{}", request.namespace, request.service_account),
            "aud": [request.audience],
            "iat": now,
            "nbf": now,
            "exp": now.saturating_add_unsigned(request.ttl.as_secs()),
        });
        let header = Header { kid: Some(self.key_id()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(&self.key.to_der());
        jsonwebtoken::encode(&header, &claims, &key).map_err(|error| IssuerError::Signing(error.to_string()))
    }

    fn key_id(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.key.public_key());
        hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for LocalIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalIssuer").field("name", &self.name).finish_non_exhaustive()
    }
}

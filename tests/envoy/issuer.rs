//! What an issuer of tokens signs with.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// A key of an issuer.
pub(crate) struct SigningKey {
    id: String,
    der: Vec<u8>,
    /// The public point: `04`, then both coordinates.
    point: Vec<u8>,
    pem: String,
}

impl SigningKey {
    /// Makes a key of that id.
    pub(crate) fn new(id: &str) -> Result<Self> {
        let broken = |error: aws_lc_rs::error::Unspecified| anyhow!("no key: {error}");
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(broken)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).map_err(|error| anyhow!("{error}"))?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(broken)?;
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(public.as_ref()));
        Ok(Self { id: id.to_owned(), der: pkcs8.as_ref().to_vec(), point: pair.public_key().as_ref().to_vec(), pem })
    }

    /// Returns its public part as an entry of a key set.
    pub(crate) fn public(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id, "x": text(x), "y": text(y)})
    }

    /// Returns the public point.
    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }

    /// Returns the public key in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String> {
        self.sign_as(&self.id, claims)
    }

    /// Signs claims under another id.
    pub(crate) fn sign_as(&self, id: &str, claims: &Value) -> Result<String> {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_der(&self.der)).context("no token")
    }
}

/// Returns a key set.
pub(crate) fn key_set(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>()})
}

/// Returns a time in so many seconds, as tokens say it.
pub(crate) fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    now.cast_signed() + seconds
}

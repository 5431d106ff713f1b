//! Whether a key verifies anything in Envoy, which takes a set for a whole if one of its keys does, and refuses the listener with it
//! if none does.

use std::ops::RangeInclusive;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::Value;
use x509_parser::{parse_x509_certificate, pem::parse_x509_pem};

use super::member;

/// Base64 as keys are written, with or without padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
/// What a certificate begins and ends with.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----\n";
/// The length of the modulus of an RSA key in bytes: 512 to 16,384 bits.
const MODULUS: RangeInclusive<usize> = 64..=2048;
/// The length of an Ed25519 key in bytes.
const ED25519: usize = 32;

/// Returns whether Envoy verifies tokens with a key of a set.
pub(super) fn verifies(key: &Value) -> bool {
    match member(key, "kty") {
        "RSA" => is_for(key, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]) && is_rsa(key),
        "EC" => is_elliptic(key),
        "OKP" => {
            let is_ed25519 = member(key, "crv") == "Ed25519" && is_for(key, &["EdDSA"]);
            is_ed25519 && bytes(key, "x").is_some_and(|key| key.len() == ED25519)
        }
        "oct" => is_for(key, &["HS256", "HS384", "HS512"]) && bytes(key, "k").is_some(),
        _ => false,
    }
}

/// Returns whether Envoy verifies tokens with the certificate of a set that has certificates.
pub(super) fn is_certificate(text: &str) -> bool {
    let is_whole = text.starts_with(BEGIN) && text.ends_with(END);
    let parsed = is_whole.then(|| parse_x509_pem(text.as_bytes()).ok()).flatten();
    parsed.is_some_and(|(_, pem)| parse_x509_certificate(&pem.contents).is_ok_and(|(_, read)| read.public_key().parsed().is_ok()))
}

/// Returns whether a key is for any algorithm, or for one of these.
fn is_for(key: &Value, algorithms: &[&str]) -> bool {
    match key.get("alg") {
        None => true,
        Some(algorithm) => algorithm.as_str().is_some_and(|algorithm| algorithms.contains(&algorithm)),
    }
}

/// Returns whether BoringSSL, with which Envoy verifies, takes the numbers: both odd, the modulus neither short nor huge, the exponent
/// of 33 bits at most and not 1.
fn is_rsa(key: &Value) -> bool {
    let number = |name| bytes(key, name).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>());
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    let (Some(n), Some(e)) = (number("n"), number("e")) else { return false };
    let is_exponent = is_odd(&e) && e != [1] && (e.len() < 5 || e.len() == 5 && e[0] == 1);
    is_exponent && is_odd(&n) && MODULUS.contains(&n.len())
}

fn is_elliptic(key: &Value) -> bool {
    let (curve, algorithm, length): (&EcdsaVerificationAlgorithm, _, usize) = match member(key, "crv") {
        "P-256" => (&ECDSA_P256_SHA256_FIXED, "ES256", 32),
        "P-384" => (&ECDSA_P384_SHA384_FIXED, "ES384", 48),
        "P-521" => (&ECDSA_P521_SHA512_FIXED, "ES512", 66),
        _ => return false,
    };
    let coordinate = |name| {
        let written = bytes(key, name)?;
        let zeros = vec![0; length.checked_sub(written.len())?];
        Some([zeros, written].concat())
    };
    let (Some(x), Some(y)) = (coordinate("x"), coordinate("y")) else { return false };
    // A point, not compressed; that it is on the curve is checked.
    is_for(key, &[algorithm]) && ParsedPublicKey::new(curve, [vec![4], x, y].concat()).is_ok()
}

/// Returns a member's bytes; `None` if there are none.
fn bytes(key: &Value, name: &str) -> Option<Vec<u8>> {
    BASE64.decode(member(key, name)).ok().filter(|bytes| !bytes.is_empty())
}

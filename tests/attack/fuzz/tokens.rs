//! Tokens and key sets at random. A token proves what its issuer signed, and nothing else; of a key set, only what is public stays.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::executor::block_on;
use istiod_lite::{
    api::key_set,
    identity::{
        authenticate::{KeySetVerifier, TokenVerifier},
        key_set::KeySet,
        local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer, TokenRequest},
        token::TokenError,
    },
    mesh::model::SpiffeId,
    peer_text::escaped,
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json, value::RawValue};

use super::random_texts::Texts;

/// How far clocks may be apart, in seconds, and what the run takes.
const LEEWAY: f64 = 300.0;

#[test]
fn tokens_at_random() {
    let issuer = LocalIssuer::generate(DEFAULT_ISSUER).unwrap();
    let verifier = verifier(&issuer);
    let good: Vec<String> = ["shop", "bank"].map(|namespace| token(&issuer, namespace)).into();
    let part = |at: usize| good.iter().map(move |token| decoded(token.split('.').nth(at).unwrap())).collect::<Vec<_>>();
    let mut tokens = Texts::of("tokens", good.iter().map(|token| token.clone().into_bytes()).collect());
    let mut headers = Texts::of("headers of tokens", part(0));
    let mut claims = Texts::of("claims of tokens", part(1));
    let mut accepted = [0; 3];
    while let (Some(text), Some(header), Some(payload)) = (tokens.next(), headers.next(), claims.next()) {
        // As somebody else writes it: only what was signed counts.
        let text = String::from_utf8_lossy(&text);
        if let Some(identity) = proven(&verifier, &text) {
            let original = good.iter().find(|good| signing_input(good) == signing_input(&text));
            let original = original.unwrap_or_else(|| panic!("nobody signed {text}"));
            assert_eq!(Some(identity), proven(&verifier, original));
            accepted[0] += 1;
        }
        // Signed by the issuer, with an odd header.
        let odd = sign(&issuer, &header, &decoded(good[0].split('.').nth(1).unwrap()));
        if proven(&verifier, &odd).is_some() {
            assert_eq!(member(&header, "alg"), "ES256", "{}", String::from_utf8_lossy(&header));
            accepted[1] += 1;
        }
        // Signed by the issuer, with odd claims.
        let header = json!({"alg": "ES256", "typ": "JWT"}).to_string();
        if let Some(identity) = proven(&verifier, &sign(&issuer, header.as_bytes(), &payload)) {
            assert_eq!(claimed(&payload), Some(identity), "{}", String::from_utf8_lossy(&payload));
            accepted[2] += 1;
        }
        // Signed by whoever knows the public key.
        for forged in forgeries(&issuer, &payload) {
            assert_eq!(proven(&verifier, &forged), None, "{forged}");
        }
    }
    println!("{accepted:?} accepted");
    assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    tokens.end();
}

fn verifier(issuer: &LocalIssuer) -> KeySetVerifier {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, issuer.key_set()).unwrap();
    KeySetVerifier::open(&path, DEFAULT_ISSUER, &[DEFAULT_AUDIENCE.into()], "cluster.local").unwrap()
}

fn token(issuer: &LocalIssuer, namespace: &str) -> String {
    let (audience, ttl) = (DEFAULT_AUDIENCE, Duration::from_secs(86_400));
    issuer.token(&TokenRequest { namespace, service_account: "client", audience, ttl }, Timestamp::now()).unwrap()
}

/// Returns whose token it is; a refusal is short and harmless, as it is logged.
fn proven(verifier: &KeySetVerifier, token: &str) -> Option<SpiffeId> {
    match block_on(verifier.verify(token, Timestamp::now())) {
        Ok(proven) => Some(proven.identity),
        Err(error) => {
            let told = error.to_string();
            assert!(told.len() < 1_200 && escaped(&told) == told, "{} bytes: {told:.300}", told.len());
            assert!(!matches!(error, TokenError::Unavailable(_)), "{told}");
            None
        }
    }
}

/// Returns whose token it is by these claims, if it is one.
fn claimed(payload: &[u8]) -> Option<SpiffeId> {
    let claim = |name| member(payload, name);
    let now = Timestamp::now().as_second() as f64;
    let is_for_us = match claim("aud") {
        Value::Array(all) => all.iter().any(|one| one == DEFAULT_AUDIENCE),
        one => one == DEFAULT_AUDIENCE,
    };
    let is_valid = claim("exp").as_f64()? > now - LEEWAY && claim("nbf").as_f64().is_none_or(|begin| begin < now + LEEWAY);
    let subject = claim("sub");
    let (namespace, account) = subject.as_str()?.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let is_plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let good = claim("iss") == DEFAULT_ISSUER && is_for_us && is_valid && is_plain(namespace) && is_plain(account);
    let trust_domain = "cluster.local".into();
    good.then(|| SpiffeId { trust_domain, namespace: namespace.into(), service_account: account.into() })
}

/// Returns a member of an object. What others hold does not count: numbers that are too large for anybody, say.
fn member(object: &[u8], name: &str) -> Value {
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(object).unwrap_or_default();
    members.get(name).and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
}

/// Returns tokens with these claims by one who has the public key alone: without a signature, with one that uses the key as a shared
/// secret, or with another key under the same id.
fn forgeries(issuer: &LocalIssuer, payload: &[u8]) -> Vec<String> {
    let set = issuer.key_set();
    let id = serde_json::from_str::<Value>(&set).unwrap()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let unsigned = |alg: &str| format!("{}.{}.", encoded(json!({"alg": alg, "kid": id}).to_string().as_bytes()), encoded(payload));
    let mut forged = vec![unsigned("none"), unsigned("ES256")];
    if let Ok(claims) = serde_json::from_slice::<Value>(payload) {
        for secret in [issuer.key().public_key(), set.as_bytes()] {
            let header = Header { kid: Some(id.clone()), ..Header::new(Algorithm::HS256) };
            forged.extend(jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)));
        }
    }
    let zeros = encoded(&[0; 64]);
    forged.push(format!("{}{zeros}", unsigned("ES256")));
    forged
}

/// Signs whatever it is.
pub(crate) fn sign(issuer: &LocalIssuer, header: &[u8], payload: &[u8]) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(payload));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &issuer.key().to_der()).unwrap();
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", encoded(signature.as_ref()))
}

fn signing_input(token: &str) -> &str {
    token.rsplit_once('.').map_or(token, |(signed, _)| signed)
}

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decoded(part: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()
}

/// What a key of a set may say: all of it is public.
const PUBLIC: [&str; 9] = ["kty", "kid", "alg", "use", "n", "e", "crv", "x", "y"];

#[test]
fn key_sets_at_random() {
    let corpus = key_sets();
    let count = corpus.len();
    let mut texts = Texts::of("key sets", corpus);
    let (mut read, mut kept) = (0, 0);
    while let Some(text) = texts.next() {
        let text = String::from_utf8_lossy(&text);
        let inspected = key_set::inspect(&text);
        if let Err(why) = KeySet::from_served(&text, "/keys") {
            assert!(!why.to_string().is_empty());
        }
        if let Some(url) = key_set::named_elsewhere(&text).filter(|url| key_set::check_url(url).is_ok()) {
            let uri: http::Uri = url.parse().unwrap();
            let authority = uri.authority().unwrap().as_str();
            assert!(matches!(uri.scheme_str(), Some("http" | "https")) && !authority.contains('@') && uri.host().is_some(), "{url}");
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
        }
        let Ok(public) = key_set::public(&text) else { continue };
        kept += 1;
        read += usize::from(inspected.is_ok());
        assert!(public.len() <= 64 << 10, "{} bytes", public.len());
        assert_eq!(key_set::public(&public).as_deref(), Ok(&*public), "one form");
        let again = key_set::inspect(&public).unwrap();
        assert!(again.usable > 0 && again.private.is_empty(), "{public}");
        let document: Value = serde_json::from_str(&public).unwrap();
        for key in document["keys"].as_array().into_iter().flatten() {
            let said = key.as_object().unwrap();
            assert!(said.keys().all(|name| PUBLIC.contains(&name.as_str())) && said["kty"] != "oct", "{public}");
        }
    }
    println!("{kept} of {count} and their like are key sets");
    assert!(kept > 0 && read == kept, "{kept} are fetched, and {read} may stand in a rule");
    texts.end();
}

/// Returns key sets as issuers publish them, some with what should be private.
fn key_sets() -> Vec<Vec<u8>> {
    let keys = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384].map(|kind| rcgen::KeyPair::generate_for(kind).unwrap());
    let curve = |name: &str, key: &rcgen::KeyPair| {
        let (x, y) = key.public_key_raw()[1..].split_at(key.public_key_raw().len() / 2);
        json!({"kty": "EC", "crv": name, "kid": name, "use": "sig", "x": encoded(x), "y": encoded(y), "d": encoded(x)})
    };
    let curves = [curve("P-256", &keys[0]), curve("P-384", &keys[1])];
    let rsa = json!({"kty": "RSA", "kid": "a", "alg": "RS256", "n": encoded(&[0xc5; 256]), "e": "AQAB", "d": encoded(&[7; 256]), "p": "AA", "q": "AA"});
    let edwards = json!({"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": encoded(&[9; 32]), "d": encoded(&[7; 32])});
    let secret = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": encoded(b"a shared secret")});
    let certificate = rcgen::CertificateParams::default().self_signed(&keys[0]).unwrap().pem();
    let sets = [
        json!({"keys": [curves[0], curves[1], rsa, edwards, secret]}),
        json!({"keys": [rsa], "issuer": "https://issuer.example.com"}),
        json!({"a": certificate, "b": certificate}),
        json!({"issuer": "https://issuer.example.com", "jwks_uri": "https://issuer.example.com/keys"}),
    ];
    sets.map(|set| set.to_string().into_bytes()).into()
}

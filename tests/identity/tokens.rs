use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use istiod_lite::{
    identity::{
        authenticate::{AuthenticationError, Authenticator, KeySetVerifier, PeerCertificate},
        key_set::KeySetError,
        local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer, TokenRequest},
        token::TokenError,
    },
    mesh::model::SpiffeId,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::fixture::{Authority, greedy_request, reviews, serial};

const HOUR: Duration = Duration::from_secs(3600);

fn authenticator(issuer: &LocalIssuer, now: Timestamp) -> Authenticator {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, issuer.key_set()).unwrap();
    let verifier = KeySetVerifier::open(&path, DEFAULT_ISSUER, &[DEFAULT_AUDIENCE.into()], "cluster.local").unwrap();
    Authenticator::new("cluster.local", vec![Arc::new(verifier)], Arc::new(move || now))
}

fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
}

fn token(issuer: &LocalIssuer, audience: &str, now: Timestamp) -> String {
    issuer.token(&TokenRequest { namespace: "shop", service_account: "reviews", audience, ttl: HOUR }, now).unwrap()
}

fn ask(authenticator: &Authenticator, value: &str) -> Result<SpiffeId, AuthenticationError> {
    futures::executor::block_on(authenticator.authenticate(&headers(value), None)).map(|proven| proven.identity)
}

fn refusal(authenticator: &Authenticator, token: &str) -> TokenError {
    match ask(authenticator, &format!("Bearer {token}")) {
        Err(AuthenticationError::Token(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_token_names_its_service_account() {
    let (issuer, now) = (LocalIssuer::generate(DEFAULT_ISSUER).unwrap(), Timestamp::now());
    let (authenticator, token) = (authenticator(&issuer, now), token(&issuer, DEFAULT_AUDIENCE, now));
    for value in [format!("Bearer {token}"), format!("bearer {token}"), format!("Istio {token}")] {
        assert_eq!(ask(&authenticator, &value).unwrap(), reviews());
    }
}

#[test]
fn forged_and_stale_tokens_prove_nothing() {
    let (issuer, now) = (LocalIssuer::generate(DEFAULT_ISSUER).unwrap(), Timestamp::now());
    let authenticator = authenticator(&issuer, now);
    let ago = |hours| now - SignedDuration::from_hours(hours);

    let forger = LocalIssuer::generate(DEFAULT_ISSUER).unwrap();
    let forged = token(&forger, DEFAULT_AUDIENCE, now);
    assert_eq!(refusal(&authenticator, &forged), TokenError::UnknownKey, "its key id is none of ours");
    let (header, rest) = token(&issuer, DEFAULT_AUDIENCE, now).split_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let claims = forged.split('.').nth(1).unwrap();
    let other_signature = forged.rsplit('.').next().unwrap();
    assert_eq!(refusal(&authenticator, &format!("{header}.{claims}.{other_signature}")), TokenError::Signature);
    let own_signature = rest.rsplit('.').next().unwrap();
    let changed = BASE64_URL_SAFE_NO_PAD.encode(json!({"iss": DEFAULT_ISSUER, "sub": "system:serviceaccount:a:b"}).to_string());
    assert_eq!(refusal(&authenticator, &format!("{header}.{changed}.{own_signature}")), TokenError::Signature);

    assert!(matches!(refusal(&authenticator, &token(&issuer, DEFAULT_AUDIENCE, ago(2))), TokenError::Expired(_)));
    assert!(matches!(refusal(&authenticator, &token(&issuer, DEFAULT_AUDIENCE, ago(-2))), TokenError::NotYetValid(_)));
    assert!(matches!(refusal(&authenticator, &token(&issuer, "vault", now)), TokenError::Audience(_)));
    let elsewhere = LocalIssuer::generate("elsewhere").unwrap();
    let of_elsewhere = token(&elsewhere, DEFAULT_AUDIENCE, now);
    assert!(matches!(refusal(&self::authenticator(&elsewhere, now), &of_elsewhere), TokenError::Issuer(_)));
    for junk in ["", "x", "a.b.c", "....", &"x".repeat(20_000)] {
        assert!(matches!(refusal(&authenticator, junk), TokenError::Malformed(_)), "{junk:?}");
    }
}

#[test]
fn the_key_chooses_the_algorithm() {
    let (issuer, now) = (LocalIssuer::generate(DEFAULT_ISSUER).unwrap(), Timestamp::now());
    let authenticator = authenticator(&issuer, now);
    let claims = json!({
        "iss": DEFAULT_ISSUER, "sub": "system:serviceaccount:shop:reviews", "aud": [DEFAULT_AUDIENCE],
        "exp": now.as_second() + 600,
    });
    let encode = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    for algorithm in ["none", "None", "NONE", ""] {
        let unsigned = format!("{}.{}.", encode(&json!({"alg": algorithm, "typ": "JWT"})), encode(&claims));
        assert!(matches!(refusal(&authenticator, &unsigned), TokenError::Malformed(_)), "{algorithm:?}");
    }
    // Signed with the public key as a shared secret: the classic confusion.
    let public = istiod_lite::identity::key::PrivateKey::public_key(issuer.key());
    let key = jsonwebtoken::EncodingKey::from_secret(public);
    for algorithm in [jsonwebtoken::Algorithm::HS256, jsonwebtoken::Algorithm::HS512] {
        let confused = jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm), &claims, &key).unwrap();
        assert_eq!(refusal(&authenticator, &confused), TokenError::Algorithm);
    }
}

#[test]
fn subjects_must_be_service_accounts() {
    for subject in ["reviews", "system:node:a", "system:serviceaccount:shop", "system:serviceaccount:a:b/sa/c", "system:serviceaccount::x"]
    {
        let refused = istiod_lite::identity::token::identity_of(subject, "cluster.local").unwrap_err();
        assert!(matches!(refused, TokenError::Subject(_)), "{subject}");
    }
}

#[test]
fn shared_secrets_are_no_key_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({"keys": [{"kty": "oct", "kid": "s", "k": "c2VjcmV0"}]}).to_string()).unwrap();
    let refused = KeySetVerifier::open(&path, "x", &[], "cluster.local").err().unwrap();
    assert!(matches!(refused, KeySetError::Key { .. }), "{refused}");
}

#[test]
fn a_public_key_in_pem_serves_as_key_set() {
    let (issuer, now) = (LocalIssuer::generate(DEFAULT_ISSUER).unwrap(), Timestamp::now());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public.pem");
    std::fs::write(&path, issuer.key().pair().public_key_pem()).unwrap();
    let verifier = KeySetVerifier::open(&path, DEFAULT_ISSUER, &[DEFAULT_AUDIENCE.into()], "cluster.local").unwrap();
    let authenticator = Authenticator::new("cluster.local", vec![Arc::new(verifier)], Arc::new(move || now));
    let token = token(&issuer, DEFAULT_AUDIENCE, now);
    assert_eq!(ask(&authenticator, &format!("Bearer {token}")).unwrap(), reviews());
}

#[test]
fn nobody_is_let_in_without_credentials() {
    let issuer = LocalIssuer::generate(DEFAULT_ISSUER).unwrap();
    let authenticator = authenticator(&issuer, Timestamp::now());
    let none = futures::executor::block_on(authenticator.authenticate(&HeaderMap::new(), None)).unwrap_err();
    assert!(matches!(none, AuthenticationError::NoCredentials), "{none}");
    for value in ["Basic dXNlcg==", "Bearer", "token"] {
        assert!(matches!(ask(&authenticator, value), Err(AuthenticationError::Header)), "{value}");
    }
}

#[test]
fn a_client_certificate_counts_while_it_is_valid_and_of_our_trust_domain() {
    let authority = Authority::new();
    let (ca, now) = (authority.load().unwrap(), Timestamp::now());
    let issuer = LocalIssuer::generate(DEFAULT_ISSUER).unwrap();
    let key = istiod_lite::identity::key::PrivateKey::generate(istiod_lite::identity::key::KeyType::P256).unwrap();
    let peer = |domain: &str| {
        let mut caller = reviews();
        caller.trust_domain = domain.into();
        let issued = ca.issue(&greedy_request(&key), &caller, 600, &Default::default(), now, serial()).unwrap();
        PeerCertificate::from_verified_der(issued.leaf_der()).unwrap()
    };
    let resolve = |authenticator: &Authenticator, peer: &PeerCertificate, headers: &HeaderMap| {
        futures::executor::block_on(authenticator.authenticate(headers, Some(peer))).map(|proven| proven.identity)
    };
    let (today, none) = (authenticator(&issuer, now), HeaderMap::new());
    assert_eq!(resolve(&today, &peer("cluster.local"), &none).unwrap(), reviews());
    let foreign = resolve(&today, &peer("elsewhere"), &none).unwrap_err();
    assert!(matches!(foreign, AuthenticationError::CertificateIdentity(_)), "{foreign}");

    // The connection outlived the certificate: then only a token helps.
    let later = now + SignedDuration::from_mins(11);
    let later_authenticator = authenticator(&issuer, later);
    let expired = resolve(&later_authenticator, &peer("cluster.local"), &none).unwrap_err();
    assert!(matches!(expired, AuthenticationError::CertificateExpired(_)), "{expired}");
    let token = headers(&format!("Bearer {}", token(&issuer, DEFAULT_AUDIENCE, later)));
    assert_eq!(resolve(&later_authenticator, &peer("cluster.local"), &token).unwrap(), reviews());

    // Our own serving certificate is no workload.
    let serving = istiod_lite::identity::ca::ServingRequest { dns_names: &["istiod".into()], addresses: &[], ttl: HOUR };
    let issued = ca.issue_serving(key.pair(), &serving, now, serial()).unwrap();
    let peer = PeerCertificate::from_verified_der(issued.leaf_der()).unwrap();
    let refused = resolve(&today, &peer, &none).unwrap_err();
    assert!(matches!(refused, AuthenticationError::CertificateIdentity(_)), "{refused}");
}

use std::fs;

use istiod_lite::identity::{
    ca::{IssueError, IssuePolicy, Issued, SigningCa},
    certificate::Certificate,
    key::{KeyType, PrivateKey},
};
use jiff::{SignedDuration, Timestamp};
use rcgen::CertificateParams;

use super::fixture::{Authority, KEY_TYPES, greedy_request, openssl, reviews, serial};

fn issue(ca: &SigningCa, request: &str, ttl: i64) -> Result<Issued, IssueError> {
    ca.issue(request, &reviews(), ttl, &IssuePolicy::default(), Timestamp::now(), serial())
}

#[test]
fn every_kind_of_ca_signs_every_kind_of_key_and_openssl_verifies() {
    let keys = KEY_TYPES.map(|kind| (kind, PrivateKey::generate(kind).unwrap()));
    for ca_kind in KEY_TYPES {
        let authority = Authority::with(KeyType::P256, ca_kind);
        // `load` also verifies a trial certificate by webpki.
        let ca = authority.load().unwrap();
        for (csr_kind, key) in &keys {
            let chain = issue(&ca, &greedy_request(key), 3600).unwrap().into_chain();
            verify_by_openssl(&authority, &chain, &format!("{ca_kind:?} signs {csr_kind:?}"));
            assert_eq!(Certificate::all_from_pem(&chain[0]).unwrap()[0].public_key, key.public_key());
        }
    }
}

fn verify_by_openssl(authority: &Authority, chain: &[String], what: &str) {
    let [leaf, intermediate, root] = chain else { panic!("{what}: {} elements", chain.len()) };
    assert!(chain.iter().all(|element| element.ends_with("-----END CERTIFICATE-----\n")), "{what}");
    for (name, text) in [("leaf.pem", leaf), ("above.pem", intermediate), ("top.pem", root)] {
        authority.write(name, text);
    }
    for purpose in ["sslclient", "sslserver"] {
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "top.pem", "-untrusted", "above.pem", "leaf.pem"];
        assert!(openssl(authority.path(), &arguments).contains("leaf.pem: OK"), "{what}");
    }
}

#[test]
fn the_certificate_says_who_the_caller_is_whatever_the_request_asks() {
    let authority = Authority::new();
    let ca = authority.load().unwrap();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let chain = issue(&ca, &greedy_request(&key), 0).unwrap().into_chain();
    let leaf = Certificate::all_from_pem(&chain[0]).unwrap().remove(0);
    assert_eq!(leaf.spiffe_id(), Some(reviews()));
    assert_eq!(leaf.uris, ["spiffe://cluster.local/ns/shop/sa/reviews"]);
    assert!(leaf.dns_names.is_empty() && leaf.addresses.is_empty() && !leaf.is_ca && !leaf.signs_certificates);
    // The common name is there because the request had one, and names the caller.
    assert_eq!(leaf.subject, "CN=spiffe://cluster.local/ns/shop/sa/reviews");

    authority.write("leaf.pem", &chain[0]);
    let text = openssl(authority.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]);
    for expected in [
        "X509v3 Subject Alternative Name: critical",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "CA:FALSE",
    ] {
        assert!(text.contains(expected), "{expected} not in\n{text}");
    }
    assert!(!text.contains("istiod"), "{text}");
}

#[test]
fn a_request_without_common_name_gets_an_empty_subject() {
    let ca = Authority::new().load().unwrap();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let request = parameters.serialize_request(key.pair()).unwrap().pem().unwrap();
    let leaf = Certificate::from_der(issue(&ca, &request, 0).unwrap().leaf_der()).unwrap();
    assert_eq!((leaf.subject.as_str(), leaf.spiffe_id()), ("", Some(reviews())));
}

#[test]
fn validity_follows_the_policy_and_ends_with_the_ca() {
    let authority = Authority::new();
    let ca = authority.load().unwrap();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let (request, now) = (greedy_request(&key), Timestamp::from_second(Timestamp::now().as_second()).unwrap());
    let days = |days: i64| days * 86_400;
    let validity = |ttl, now| {
        let issued = ca.issue(&request, &reviews(), ttl, &IssuePolicy::default(), now, serial()).unwrap();
        let leaf = Certificate::from_der(issued.leaf_der()).unwrap();
        (leaf.not_before.as_second() - now.as_second(), leaf.not_after.as_second() - now.as_second())
    };
    assert_eq!(validity(0, now), (-120, days(1)));
    assert_eq!(validity(-5, now), (-120, days(1)));
    assert_eq!(validity(3600, now), (-120, 3600));
    // The intermediate has 88 days left.
    assert_eq!(validity(days(90), now).1, ca.certificate().not_after.as_second() - now.as_second());
    let refused = issue(&ca, &request, days(90) + 1).unwrap_err();
    assert!(matches!(refused, IssueError::Ttl { .. }), "{refused}");
    let after = ca.not_after() + SignedDuration::from_secs(1);
    let refused = ca.issue(&request, &reviews(), 0, &IssuePolicy::default(), after, serial()).unwrap_err();
    assert!(matches!(refused, IssueError::CaExpired(_)), "{refused}");
}

#[test]
fn serials_are_random_and_long() {
    let ca = Authority::new().load().unwrap();
    let request = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    let serials: std::collections::BTreeSet<String> =
        (0..20).map(|_| Certificate::from_der(issue(&ca, &request, 0).unwrap().leaf_der()).unwrap().serial).collect();
    assert_eq!(serials.len(), 20);
    assert!(serials.iter().all(|serial| serial.split(':').count() == 16), "{serials:?}");
}

#[test]
fn bad_requests_are_refused() {
    let authority = Authority::new();
    let ca = authority.load().unwrap();
    let refused = |request: &str| issue(&ca, request, 0).unwrap_err().to_string();
    let good = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    assert!(refused("").contains("PEM"));
    assert!(refused(&"x".repeat(20_000)).contains("too large"));
    assert!(refused(&good.replace("CERTIFICATE REQUEST", "CERTIFICATE")).contains("CERTIFICATE REQUEST"));

    // A signature by another key than the one asked for: nothing proves that the caller holds that one.
    let mut der = pem::parse(&good).unwrap().into_contents();
    let last = der.len() - 1;
    der[last] ^= 1;
    assert!(refused(&pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der))).contains("signature"));

    for (arguments, reason) in [
        (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out", "weak.key"], "RSA of 1024 bits"),
        (["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1", "-out", "weak.key"], "key"),
    ] {
        openssl(authority.path(), &arguments);
        openssl(authority.path(), &["req", "-new", "-key", "weak.key", "-subj", "/CN=x", "-out", "weak.csr"]);
        let request = fs::read_to_string(authority.path().join("weak.csr")).unwrap();
        assert!(refused(&request).contains(reason), "{}", refused(&request));
    }
}

#[test]
fn an_identity_that_is_no_plain_name_is_not_signed() {
    let ca = Authority::new().load().unwrap();
    let request = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    let mut caller = reviews();
    caller.service_account = "a/sa/b".into();
    let refused = ca.issue(&request, &caller, 0, &IssuePolicy::default(), Timestamp::now(), serial()).unwrap_err();
    assert!(matches!(refused, IssueError::Identity(_)), "{refused}");
}

#[test]
fn nothing_that_is_printed_holds_a_key() {
    let authority = Authority::new();
    let ca = authority.load().unwrap();
    let key = PrivateKey::from_pem(&authority.key_pem).unwrap();
    let handle = istiod_lite::identity::ca::CaHandle::new(authority.load().unwrap());
    let shown = format!("{ca:?} {ca:#?} {key:?} {key:#?} {handle:?} {handle:#?}");
    let secret: Vec<u8> = openssl(authority.path(), &["ec", "-in", "ca-key.pem", "-noout", "-text"])
        .lines()
        .skip_while(|line| !line.starts_with("priv:"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .flat_map(|line| line.trim().split(':').filter(|hex| !hex.is_empty()).map(|hex| u8::from_str_radix(hex, 16).unwrap()))
        .collect();
    assert_eq!(secret.len(), 32);
    for bytes in secret.windows(3) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{}, {}, {}", bytes[0], bytes[1], bytes[2]);
        assert!(!shown.contains(&hex) && !shown.contains(&list), "{shown}");
    }
    assert!(authority.key_pem.lines().filter(|line| !line.starts_with('-')).all(|line| !shown.contains(line)));
}

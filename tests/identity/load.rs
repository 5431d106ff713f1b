use std::fs;

use istiod_lite::identity::{
    ca::{CaHandle, LoadError, OfferOutcome},
    ceremony,
    key::{KeyType, PrivateKey},
};
use jiff::Timestamp;
use rcgen::{BasicConstraints, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints};

use super::fixture::{Authority, date, greedy_request, intermediate_parameters, openssl, reviews, serial};

/// Checks that loading fails with an error that says all of this, and shows no key.
fn refused(authority: &Authority, words: &[&str]) {
    let error = authority.load().expect_err("a CA that must be refused was accepted").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} not in: {error}");
    }
    for line in authority.key_pem.lines().chain(authority.root_key_pem.lines()).filter(|line| !line.starts_with("---")) {
        assert!(!error.contains(line), "{error}");
    }
}

#[test]
fn both_forms_of_folder_load() {
    let authority = Authority::new();
    assert_eq!(authority.load().unwrap().path().len(), 1);
    for (from, to) in [("ca-cert.pem", "tls.crt"), ("ca-key.pem", "tls.key"), ("root-cert.pem", "ca.crt")] {
        fs::rename(authority.path().join(from), authority.path().join(to)).unwrap();
    }
    authority.remove("cert-chain.pem");
    let ca = authority.load().unwrap();
    assert_eq!((ca.path().len(), ca.root_bundle()), (1, authority.root.pem().as_str()));
}

#[test]
fn keys_load_in_the_encodings_that_cacerts_have() {
    for (kind, tag) in [(KeyType::Rsa2048, "RSA PRIVATE KEY"), (KeyType::P256, "EC PRIVATE KEY"), (KeyType::P384, "EC PRIVATE KEY")] {
        let authority = Authority::with(KeyType::P256, kind);
        openssl(authority.path(), &["pkey", "-in", "ca-key.pem", "-traditional", "-out", "traditional"]);
        fs::rename(authority.path().join("traditional"), authority.path().join("ca-key.pem")).unwrap();
        assert!(fs::read_to_string(authority.path().join("ca-key.pem")).unwrap().contains(tag));
        authority.load().unwrap();
    }
}

#[test]
fn a_missing_file_is_named() {
    for name in ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"] {
        let authority = Authority::new();
        authority.remove(name);
        refused(&authority, &["incomplete", name]);
    }
    let empty = tempfile::tempdir().unwrap();
    let error = istiod_lite::identity::ca::load(empty.path(), Timestamp::now()).unwrap_err();
    assert!(matches!(error, LoadError::Empty { .. }), "{error}");
    let error = istiod_lite::identity::ca::load(&empty.path().join("nowhere"), Timestamp::now()).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn a_root_key_nearby_is_refused_under_any_name_and_encoding() {
    let authority = Authority::new();
    let key = authority.root_key();
    let root = &["root key must never be where the control plane runs"];
    for (name, contents) in [
        ("root-key.pem", "anything".into()),
        ("notes.txt", key.to_pem()),
        ("old.pem", format!("{}{}", authority.root.pem(), key.to_pem())),
        ("backup.pem", key.to_encrypted_pem(b"passphrase").unwrap()),
    ] {
        authority.write(name, &contents);
        refused(&authority, &[root[0], name]);
        authority.remove(name);
    }
    fs::write(authority.path().join("root.der"), key.to_der()).unwrap();
    refused(&authority, &[root[0], "root.der"]);
    authority.remove("root.der");
    fs::create_dir(authority.path().join("ceremony")).unwrap();
    authority.write("ceremony/k", &key.to_pem());
    refused(&authority, &[root[0], "ceremony/k"]);
    fs::remove_dir_all(authority.path().join("ceremony")).unwrap();
    authority.load().unwrap();
}

#[test]
fn a_self_signed_signing_certificate_is_an_online_root() {
    let authority = Authority::new();
    authority.write("ca-cert.pem", &authority.root.pem());
    authority.write("ca-key.pem", &authority.root_key_pem);
    refused(&authority, &["root key must never be", "ca-key.pem"]);

    // Also when the root that is trusted is another one.
    let other = Authority::new();
    authority.write("root-cert.pem", &other.root.pem());
    refused(&authority, &["self-signed"]);
}

#[test]
fn a_wrong_or_unreadable_key_is_refused() {
    let authority = Authority::new();
    authority.write("ca-key.pem", &PrivateKey::generate(KeyType::P256).unwrap().to_pem());
    refused(&authority, &["ca-key.pem is not the key of ca-cert.pem"]);
    authority.write("ca-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    refused(&authority, &["ca-key.pem", "cannot be read"]);
    authority.write("ca-key.pem", "");
    refused(&authority, &["ca-key.pem", "no PEM private key"]);
    authority.write("ca-cert.pem", "garbage");
    refused(&authority, &["ca-cert.pem holds no certificate"]);
}

#[test]
fn nothing_is_told_of_a_key_in_broken_pem() {
    let authority = Authority::new();
    let secret = authority.key_pem.lines().nth(1).unwrap().to_owned();
    let broken = [
        // Lines that ran into each other, and one that got lost.
        authority.key_pem.replace("END PRIVATE KEY", &format!("END PRIVATE KEY{secret}")),
        authority.key_pem.replace("BEGIN PRIVATE KEY-----\n", "BEGIN PRIVATE KEY"),
        authority.key_pem.replace("-----\n", ""),
        authority.key_pem.replace("-----END PRIVATE KEY-----", ""),
        authority.key_pem.replace(&secret, &format!("{secret}: {secret}\n")),
    ];
    for name in ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem"] {
        let good = fs::read_to_string(authority.path().join(name)).unwrap();
        for text in &broken {
            authority.write(name, text);
            let refused = authority.load().unwrap_err().to_string();
            assert!(!refused.contains(&secret), "{name}: {refused}");
        }
        authority.write(name, &good);
    }
    authority.load().unwrap();
}

#[test]
fn a_root_that_cannot_be_read_is_passed_over_where_the_rest_is_enough() {
    let authority = Authority::new();
    let (root, other) = (authority.root.pem(), Authority::new().root.pem());
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cut = &root[..root.len() / 2];
    for (bundle, trusted, number) in [
        (format!("{broken}{root}"), 1, "certificate 1"),
        (format!("{root}{broken}{other}"), 2, "certificate 2"),
        (format!("{root}{cut}"), 1, "certificate 2"),
        (format!("{root}-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n{other}"), 2, "certificate 2"),
    ] {
        authority.write("root-cert.pem", &bundle);
        let ca = authority.load().unwrap();
        assert_eq!((ca.roots().len(), ca.passed_over().len()), (trusted, 1), "{bundle}");
        assert!(ca.passed_over()[0].contains("root-cert.pem") && ca.passed_over()[0].contains(number), "{:?}", ca.passed_over());
        assert_eq!(ca.root_bundle().matches("BEGIN").count(), trusted, "only what can be read is handed on");
    }
    // The root of the CA is the one that cannot be read.
    authority.write("root-cert.pem", &format!("{broken}{other}"));
    refused(&authority, &["root-cert.pem certificate 1 cannot be read"]);
    authority.write("root-cert.pem", broken);
    refused(&authority, &["root-cert.pem certificate 1 cannot be read"]);
    // It hides no root key.
    authority.write("root-cert.pem", &format!("{broken}{root}{}", authority.root_key_pem));
    refused(&authority, &["root key must never be"]);
}

#[test]
fn what_is_no_ca_does_not_sign() {
    let authority = Authority::new();
    let mut parameters = intermediate_parameters();
    authority.sign_as(&parameters);
    authority.load().unwrap();

    parameters.is_ca = IsCa::ExplicitNoCa;
    authority.sign_as(&parameters);
    refused(&authority, &["Foreign intermediate", "not a CA"]);

    parameters.is_ca = IsCa::NoCa;
    authority.sign_as(&parameters);
    refused(&authority, &["Foreign intermediate", "not a CA"]);

    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    authority.sign_as(&parameters);
    refused(&authority, &["keyCertSign"]);
}

#[test]
fn a_workload_certificate_is_no_ca() {
    let authority = Authority::new();
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let issued = authority.load().unwrap().issue(
        &super::fixture::greedy_request(&key),
        &super::fixture::reviews(),
        0,
        &Default::default(),
        Timestamp::now(),
        super::fixture::serial(),
    );
    let leaf = issued.unwrap().into_chain().remove(0);
    authority.write("ca-cert.pem", &leaf);
    authority.write("ca-key.pem", &key.to_pem());
    refused(&authority, &["not a CA"]);
}

#[test]
fn validity_is_checked_for_the_whole_path() {
    let authority = Authority::new();
    let mut parameters = intermediate_parameters();
    parameters.not_after = date(-1);
    parameters.not_before = date(-2);
    authority.sign_as(&parameters);
    refused(&authority, &["Foreign intermediate", "expired at"]);
    parameters.not_after = date(3);
    parameters.not_before = date(2);
    authority.sign_as(&parameters);
    refused(&authority, &["Foreign intermediate", "not valid before"]);

    let authority = Authority::new();
    let later = authority.root.not_after + jiff::SignedDuration::from_hours(1);
    let error = istiod_lite::identity::ca::load(authority.path(), later).unwrap_err();
    assert!(matches!(error, LoadError::Expired { .. }), "{error}");
}

#[test]
fn the_path_must_reach_the_root_by_signatures() {
    let (authority, other) = (Authority::new(), Authority::new());
    // Same names, other key: only the signature tells them apart.
    assert_eq!(authority.root.subject, other.root.subject);
    authority.write("root-cert.pem", &other.root.pem());
    refused(&authority, &["not signed by a root in root-cert.pem"]);
}

/// Puts a CA of that path length between the root and the signing certificate; both as PEM.
fn write_chain_of_two(authority: &Authority, path_length: u8) -> (String, String) {
    let (middle_key, key) = (PrivateKey::generate(KeyType::P256).unwrap(), PrivateKey::from_pem(&authority.key_pem).unwrap());
    let mut parameters = intermediate_parameters();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "Middle");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    let root_key = authority.root_key();
    let root = rcgen::Issuer::from_ca_cert_der(authority.root.der(), root_key.pair()).unwrap();
    let middle = parameters.signed_by(middle_key.pair(), &root).unwrap();
    let middle_issuer = rcgen::Issuer::from_ca_cert_der(middle.der(), middle_key.pair()).unwrap();
    let signing = intermediate_parameters().signed_by(key.pair(), &middle_issuer).unwrap();
    authority.write("ca-cert.pem", &signing.pem());
    authority.write("cert-chain.pem", &(authority.root.pem() + &middle.pem()));
    (middle.pem(), signing.pem())
}

#[test]
fn an_intermediate_between_is_found_in_the_chain_file_and_sent_along() {
    let authority = Authority::new();
    let (middle, signing) = write_chain_of_two(&authority, 1);
    let ca = authority.load().unwrap();
    assert_eq!(ca.path().len(), 2);
    let request = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    let issued = ca.issue(&request, &reviews(), 0, &Default::default(), Timestamp::now(), serial()).unwrap();
    let chain = issued.into_chain();
    assert_eq!(chain.len(), 4, "leaf, signing certificate, the one between, root: {chain:#?}");
    assert_eq!(chain[2].trim(), middle.replace("\r\n", "\n").trim());
    authority.write("cert-chain.pem", &signing);
    refused(&authority, &["not signed by"]);
}

#[test]
fn an_intermediate_between_must_allow_another_below_it() {
    let authority = Authority::new();
    write_chain_of_two(&authority, 0);
    refused(&authority, &["Middle", "path length 0"]);
}

#[test]
fn name_constraints_are_named_as_the_cause() {
    let authority = Authority::new();
    let mut parameters = intermediate_parameters();
    // rcgen cannot write URI constraints; a directory name constraint that the empty subject meets is no obstacle, so the
    // extension is written by hand: permitted URI cluster.local.
    let uri = [&[0x30, 0x13, 0xa0, 0x11, 0x30, 0x0f, 0x86, 0x0d][..], b"cluster.local"].concat();
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], uri);
    extension.set_criticality(true);
    parameters.custom_extensions = vec![extension];
    authority.sign_as(&parameters);
    refused(&authority, &["Foreign intermediate", "name constraints", "cluster.local", "cause"]);

    // Constraints that verifiers understand and that say nothing about URIs do no harm.
    let mut parameters = intermediate_parameters();
    let excluded_subtrees = vec![GeneralSubtree::DnsName("example.com".into())];
    parameters.name_constraints = Some(NameConstraints { permitted_subtrees: vec![], excluded_subtrees });
    authority.sign_as(&parameters);
    authority.load().unwrap();
}

#[test]
fn a_new_intermediate_is_taken_over_and_another_root_is_not() {
    let authority = Authority::new();
    let handle = CaHandle::new(authority.load().unwrap());
    let changed = handle.subscribe();
    assert_eq!(handle.offer(authority.load().unwrap()).unwrap(), OfferOutcome::Unchanged);
    assert!(!changed.has_changed().unwrap());

    let before = handle.current().certificate().clone();
    let authority = authority.renew(KeyType::P384);
    assert_eq!(handle.offer(authority.load().unwrap()).unwrap(), OfferOutcome::Accepted);
    assert!(changed.has_changed().unwrap());
    assert_ne!(handle.current().certificate(), &before);

    let error = handle.offer(Authority::new().load().unwrap()).unwrap_err();
    assert!(error.to_string().contains("another root"), "{error}");
    assert_eq!(handle.current().root(), &authority.root);
}

#[test]
fn lists_stay_until_others_come() {
    let authority = Authority::new();
    let lists = |authority: &Authority, revoked: &[&[u8]]| {
        let serials = revoked.iter().map(|serial| serial.to_vec()).collect();
        let (ca, now) = (authority.load().unwrap(), Timestamp::now());
        let key = PrivateKey::from_pem(&authority.key_pem).unwrap();
        let of_intermediate = ceremony::revocation_list(ca.certificate(), key, &serials, 1, now).unwrap();
        of_intermediate + &ceremony::revocation_list(ca.root(), authority.root_key(), &Default::default(), 1, now).unwrap()
    };
    let handle = CaHandle::new(authority.load().unwrap());
    let (published, issuer) = (handle.revocation(), handle.current().certificate().subject_der.clone());
    assert!(published.borrow().is_empty());
    let revokes = |serial: u8| handle.current().revocation().is_some_and(|lists| lists.revokes(&issuer, &[serial]));

    let first = lists(&authority, &[&[5]]);
    authority.write("ca-crl.pem", &first);
    assert_eq!(handle.offer(authority.load().unwrap()).unwrap(), OfferOutcome::Accepted);
    assert!(revokes(5) && published.borrow().contains("X509 CRL"));
    for unusable in ["", "nonsense", &first[..first.len() / 2]] {
        authority.write("ca-crl.pem", unusable);
        let offered = authority.load().unwrap();
        assert!(offered.unusable_revocation().is_some(), "{unusable:?}");
        assert_eq!(handle.offer(offered).unwrap(), OfferOutcome::Unchanged, "{unusable:?}");
    }
    authority.remove("ca-crl.pem");
    assert_eq!(handle.offer(authority.load().unwrap()).unwrap(), OfferOutcome::Unchanged);
    assert!(revokes(5), "who was revoked is let in because a file is gone");

    // Proxies would refuse what another intermediate signs, as long as it has no list.
    let authority = authority.renew(KeyType::P256);
    let refused = handle.offer(authority.load().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("would refuse what the new CA signs"), "{refused}");
    authority.write("ca-crl.pem", &lists(&authority, &[&[6]]));
    assert_eq!(handle.offer(authority.load().unwrap()).unwrap(), OfferOutcome::Accepted);
    assert!(revokes(5) && revokes(6), "certificates of the intermediate before are still in use");
}

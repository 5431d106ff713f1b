//! The commands of certs/README.md.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use istiod_lite::identity::{
    ca,
    certificate::Certificate,
    key::{KeyType, PrivateKey},
};
use jiff::Timestamp;

use super::fixture::{Authority, openssl};

fn istiod_lite(folder: &Path, arguments: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_istiod-lite"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .env("ROOT_PASSPHRASE", "correct horse battery staple")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    child.stdin.take().unwrap().write_all(b"correct horse battery staple\n").ok();
    child.wait_with_output().unwrap()
}

fn succeeds(folder: &Path, arguments: &str) -> String {
    let output = istiod_lite(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(folder: &Path, arguments: &str) -> String {
    let output = istiod_lite(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments}");
    String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_ceremony_makes_what_the_control_plane_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, "ca root --out root --passphrase-env ROOT_PASSPHRASE --org Example");
    succeeds(at, "ca intermediate --root root --out cacerts --passphrase-env ROOT_PASSPHRASE --org Example");
    for (file, mode) in [("root/root-key.pem", 0o600), ("cacerts/ca-key.pem", 0o600), ("cacerts/ca-cert.pem", 0o644)] {
        assert_eq!(fs::metadata(at.join(file)).unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    let mut names: Vec<_> = fs::read_dir(at.join("cacerts")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]);
    ca::load(&at.join("cacerts"), Timestamp::now()).unwrap();

    // openssl agrees: about the chain, and about the key's encryption.
    openssl(at, &["verify", "-x509_strict", "-CAfile", "root/root-cert.pem", "cacerts/ca-cert.pem"]);
    let key = fs::read_to_string(at.join("root/root-key.pem")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{key}");
    let public = openssl(at, &["pkey", "-in", "root/root-key.pem", "-passin", "pass:correct horse battery staple", "-pubout"]);
    assert_eq!(public, openssl(at, &["x509", "-in", "root/root-cert.pem", "-noout", "-pubkey"]));

    let shown = succeeds(at, "ca inspect cacerts");
    assert!(shown.contains("the control plane accepts it") && shown.contains("path length 0"), "{shown}");
    succeeds(at, "ca inspect cacerts/cert-chain.pem");
}

#[test]
fn every_key_type_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["p256", "p384", "rsa2048", "rsa4096"] {
        let root = format!("ca root --out root-{kind} --key-type {kind} --passphrase-stdin --days 30");
        succeeds(folder.path(), &root);
        let intermediate =
            format!("ca intermediate --root root-{kind} --out {kind} --key-type {kind} --passphrase-stdin --days 20 --path-len 1");
        succeeds(folder.path(), &intermediate);
        let ca = ca::load(&folder.path().join(kind), Timestamp::now()).unwrap();
        assert_eq!(ca.certificate().path_length, Some(1));
    }
}

#[test]
fn a_ceremony_is_not_repeated_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("passphrase"), "correct horse battery staple\n").unwrap();
    succeeds(at, "ca root --out root --passphrase-file passphrase");
    let key = fs::read(at.join("root/root-key.pem")).unwrap();
    assert!(fails(at, "ca root --out root --passphrase-file passphrase").contains("--force"));
    assert_eq!(fs::read(at.join("root/root-key.pem")).unwrap(), key);
    assert!(fails(at, "ca intermediate --root root --out root --passphrase-file passphrase").contains("beside the root key"));
    fs::write(at.join("passphrase"), "wrong\n").unwrap();
    assert!(fails(at, "ca intermediate --root root --out cacerts --passphrase-file passphrase").contains("passphrase"));
    assert!(!at.join("cacerts").exists());
    fs::write(at.join("passphrase"), "").unwrap();
    assert!(fails(at, "ca root --out other --passphrase-file passphrase").contains("empty"));
    let outlives = "ca intermediate --root root --out cacerts --passphrase-env ROOT_PASSPHRASE --days 4000";
    assert!(fails(at, outlives).contains("after its root"));
    succeeds(at, "ca root --out root --passphrase-env ROOT_PASSPHRASE --force");
    assert_ne!(fs::read(at.join("root/root-key.pem")).unwrap(), key);
}

#[test]
fn inspect_names_problems_and_says_so_by_its_status() {
    let authority = Authority::new();
    let inspect = format!("ca inspect {}", authority.path().display());
    succeeds(authority.path(), &inspect);
    authority.write("forgotten.pem", &authority.root_key_pem);
    assert!(fails(authority.path(), &inspect).contains("the private key of a root certificate"));
    authority.remove("forgotten.pem");
    authority.remove("ca-key.pem");
    assert!(fails(authority.path(), &inspect).contains("ca-key.pem missing"));
    let other = Authority::with(KeyType::P256, KeyType::P384);
    fs::copy(other.path().join("ca-cert.pem"), authority.path().join("mixed.pem")).unwrap();
    let mixed = fs::read_to_string(authority.path().join("mixed.pem")).unwrap() + &authority.root.pem();
    authority.write("mixed.pem", &mixed);
    assert!(fails(authority.path(), "ca inspect mixed.pem").contains("is not issued by"));
}

#[test]
fn openssl_makes_what_the_control_plane_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/certs/README.md")).unwrap();
    let script = block_after(&readme, "<!-- run by openssl_makes_what_the_control_plane_accepts -->");
    assert!(script.matches("openssl ").count() >= 5, "{script}");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder.path())
        .env("ROOT_PASSPHRASE", "correct horse battery staple")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ca = ca::load(&folder.path().join("cacerts"), Timestamp::now()).unwrap();
    assert_eq!(ca.certificate().path_length, Some(0));
    succeeds(folder.path(), "ca inspect cacerts");
}

#[test]
fn tokens_for_a_mesh_without_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, "ca issuer --out issuer");
    assert_eq!(fs::metadata(at.join("issuer/issuer-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let token = succeeds(at, "ca token --issuer-dir issuer --namespace shop --service-account reviews --ttl 60");
    assert_eq!(token.trim().split('.').count(), 3);
    assert!(fails(at, "ca token --issuer-dir issuer --namespace a/b --service-account c").contains("not a name"));
    assert!(fails(at, "ca token --issuer-dir nowhere --namespace a --service-account c").contains("issuer-key.pem"));
    assert!(fails(at, "ca issuer --out issuer").contains("--force"));
}

fn block_after<'a>(text: &'a str, marker: &str) -> &'a str {
    let (_, rest) = text.split_once(marker).expect("the marker");
    let (_, rest) = rest.split_once("```sh\n").expect("a block");
    rest.split_once("```").expect("its end").0
}

#[test]
fn a_list_of_revoked_certificates_is_made_and_taken() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, "ca root --out root --passphrase-env ROOT_PASSPHRASE");
    succeeds(at, "ca intermediate --root root --out cacerts --passphrase-env ROOT_PASSPHRASE");
    let (ca, key) = (ca::load(&at.join("cacerts"), Timestamp::now()).unwrap(), PrivateKey::generate(KeyType::P256).unwrap());
    let issue = || {
        ca.issue(
            &super::fixture::greedy_request(&key),
            &super::fixture::reviews(),
            600,
            &Default::default(),
            Timestamp::now(),
            super::fixture::serial(),
        )
    };
    let [good, bad] = [issue(), issue()].map(|issued| Certificate::from_der(issued.unwrap().leaf_der()).unwrap());
    fs::create_dir(at.join("lists")).unwrap();
    succeeds(at, "ca crl --ca root --passphrase-env ROOT_PASSPHRASE --out lists --days 365");
    succeeds(at, &format!("ca crl --ca cacerts --out lists --revoke {}", bad.serial));
    // Made anew, it keeps what was revoked, and the root's list beside it.
    succeeds(at, "ca crl --ca cacerts --out lists");

    fs::copy(at.join("lists/ca-crl.pem"), at.join("cacerts/ca-crl.pem")).unwrap();
    let loaded = ca::load(&at.join("cacerts"), Timestamp::now()).unwrap();
    let lists = loaded.revocation().unwrap();
    assert!(lists.revokes(&bad.issuer_der, &bad.serial_der) && !lists.revokes(&good.issuer_der, &good.serial_der));
    assert_eq!((lists.count(), loaded.unusable_revocation()), (1, None));

    // openssl agrees, and so would Envoy: every CA has a list.
    for (name, certificate) in [("good", &good), ("bad", &bad)] {
        fs::write(at.join(format!("{name}.pem")), certificate.pem()).unwrap();
    }
    let verify = |name: &str| {
        let arguments = [
            "verify",
            "-crl_check_all",
            "-CRLfile",
            "lists/ca-crl.pem",
            "-CAfile",
            "root/root-cert.pem",
            "-untrusted",
            "cacerts/ca-cert.pem",
            name,
        ];
        Command::new("openssl").args(arguments).current_dir(at).output().unwrap()
    };
    let (taken, refused) = (verify("good.pem"), verify("bad.pem"));
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("certificate revoked"), "{said}");

    let refused = fails(at, "ca crl --ca nowhere --out lists");
    assert!(refused.contains("ca-key.pem") || refused.contains("ca-cert.pem"), "{refused}");
}

#[test]
fn what_ends_soon_is_a_problem_if_one_asks() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    succeeds(at, "ca root --out root --passphrase-env ROOT_PASSPHRASE --days 100");
    succeeds(at, "ca intermediate --root root --out cacerts --passphrase-env ROOT_PASSPHRASE --days 20");
    succeeds(at, "ca inspect cacerts cacerts/ca-cert.pem");
    succeeds(at, "ca inspect --min-days 19 cacerts cacerts/ca-cert.pem");
    for path in ["cacerts", "cacerts/ca-cert.pem"] {
        let said = fails(at, &format!("ca inspect --min-days 30 {path}"));
        assert!(said.contains("problem: ") && said.contains("Intermediate CA") && said.contains("expires soon"), "{path}: {said}");
    }
    for ca in ["root --passphrase-env ROOT_PASSPHRASE", "cacerts"] {
        succeeds(at, &format!("ca crl --ca {ca} --out cacerts --days 10"));
    }
    assert!(fails(at, "ca inspect --min-days 15 cacerts").contains("a list ends soon"));
    fs::write(at.join("cacerts/ca-crl.pem"), "nonsense").unwrap();
    assert!(fails(at, "ca inspect cacerts").contains("holds no list of revoked certificates"));
}

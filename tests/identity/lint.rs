//! What the CA issues, judged by others: pkilint (what RFC 5280 and its kin ask) and GnuTLS. `issue.rs` has openssl and webpki.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use harness::{said::skip, tools};
use istiod_lite::identity::{
    ca::CertificateHolder,
    ceremony,
    key::{KeyType, PrivateKey},
};
use jiff::Timestamp;

use rcgen::{CertificateParams, DistinguishedName};

use super::fixture::{Authority, KEY_TYPES, greedy_request, reviews, serial};

/// The one thing that pkilint finds: it knows no URI without a DNS name as its host's kind. SPIFFE's are as its standard has them.
const WAIVED: (&str, &str) = ("pkix.invalid_uri_syntax", "\"spiffe://");

/// Returns a request as agents send it, without a common name. With one, the certificate has one, and pkilint warns that its SPIFFE id
/// is critical beside it, as Istio's always is.
fn usual_request(key: &PrivateKey) -> String {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.serialize_request(key.pair()).unwrap().pem().unwrap()
}

/// Returns what pkilint finds wrong or doubtful in a file, but for the waiver, and how often that was needed.
fn findings(linter: &Path, file: &Path) -> (Vec<String>, usize) {
    let output = Command::new(linter).args(["lint", "-s", "WARNING"]).arg(file).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let found = text.lines().filter(|line| ["(FATAL)", "(ERROR)", "(WARNING)"].iter().any(|severity| line.contains(severity)));
    let (waived, others): (Vec<_>, Vec<_>) = found.map(str::to_owned).partition(|line| line.contains(WAIVED.0) && line.contains(WAIVED.1));
    (others, waived.len())
}

fn linter(program: &str) -> Option<PathBuf> {
    Some(tools::project().join(".tools/pki-lint/bin").join(program)).filter(|path| path.is_file())
}

#[test]
fn pkilint_finds_nothing_but_the_scheme_of_spiffe() {
    let (Some(of_certificates), Some(of_lists)) = (linter("lint_pkix_cert"), linter("lint_crl")) else {
        return skip("pkilint_finds_nothing_but_the_scheme_of_spiffe", "no pkilint: run `make setup`");
    };
    let authority = Authority::new();
    let ca = authority.load().unwrap();
    for kind in KEY_TYPES {
        let key = PrivateKey::generate(kind).unwrap();
        for remote_cluster in [None, Some("east")] {
            let holder = CertificateHolder { identity: &reviews(), remote_cluster };
            let issued = ca.issue(&usual_request(&key), holder, 3600, &Default::default(), Timestamp::now(), serial()).unwrap();
            authority.write("leaf.pem", &issued.into_chain()[0]);
            assert_eq!(findings(&of_certificates, &authority.path().join("leaf.pem")), (Vec::new(), 1), "{kind:?} {remote_cluster:?}");
        }
    }
    for file in ["ca-cert.pem", "root-cert.pem"] {
        assert_eq!(findings(&of_certificates, &authority.path().join(file)), (Vec::new(), 0), "{file}");
    }
    let key = PrivateKey::from_pem(&authority.key_pem).unwrap();
    let list = ceremony::revocation_list(ca.certificate(), key, &[vec![1, 2, 3]].into(), 30, Timestamp::now()).unwrap();
    authority.write("list.pem", &list);
    let output =
        Command::new(of_lists).args(["lint", "-t", "CRL", "-p", "PKIX", "-s", "WARNING"]).arg(authority.path().join("list.pem")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn gnutls_verifies_what_is_issued() {
    if Command::new("certtool").arg("--version").output().is_err() {
        return skip("gnutls_verifies_what_is_issued", "no certtool: run `make setup-root` as root");
    }
    for ca_kind in [KeyType::P256, KeyType::Rsa2048] {
        let authority = Authority::with(ca_kind, ca_kind);
        let ca = authority.load().unwrap();
        for kind in KEY_TYPES {
            let key = PrivateKey::generate(kind).unwrap();
            let holder = CertificateHolder { identity: &reviews(), remote_cluster: Some("east") };
            let issued = ca.issue(&greedy_request(&key), holder, 3600, &Default::default(), Timestamp::now(), serial()).unwrap();
            let chain = issued.into_chain();
            authority.write("chain.pem", &chain[..2].concat());
            let verify = |root: &Path| {
                let mut command = Command::new("certtool");
                command.args(["--verify", "--infile", "chain.pem", "--load-ca-certificate"]).arg(root).current_dir(authority.path());
                command.output().unwrap()
            };
            let output = verify(Path::new("root-cert.pem"));
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("Verified"), "{ca_kind:?} signs {kind:?}: {text}");
            let other = Authority::new();
            assert!(!verify(&other.path().join("root-cert.pem")).status.success(), "another root verifies it");
        }
    }
}

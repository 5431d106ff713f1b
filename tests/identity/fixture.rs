//! CAs made for one test.

use std::{fs, path::Path, process::Command};

use istiod_lite::{
    identity::{
        ca::{self, LoadError, Serial, SigningCa},
        ceremony::{self, CaRequest, CaSubject},
        certificate::Certificate,
        key::{KeyType, PrivateKey},
    },
    mesh::model::SpiffeId,
};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, SanType};
use tempfile::TempDir;

pub(crate) const KEY_TYPES: [KeyType; 4] = [KeyType::P256, KeyType::P384, KeyType::Rsa2048, KeyType::Rsa4096];

/// A root and an intermediate, with the folder that a control plane would be given.
pub(crate) struct Authority {
    pub(crate) folder: TempDir,
    pub(crate) root: Certificate,
    pub(crate) root_key_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::with(KeyType::P256, KeyType::P256)
    }

    pub(crate) fn with(root_kind: KeyType, kind: KeyType) -> Self {
        let root_key = PrivateKey::generate(root_kind).unwrap();
        let request = CaRequest { key: &root_key, subject: &subject("Test root"), days: 100, now: long_ago(), serial: serial() };
        let root = ceremony::root_certificate(&request).unwrap();
        let root_key_pem = root_key.to_pem();
        let authority = Self { folder: tempfile::tempdir().unwrap(), root, root_key_pem, key_pem: String::new() };
        authority.renew(kind)
    }

    /// Makes another intermediate under the same root, in the same folder.
    pub(crate) fn renew(mut self, kind: KeyType) -> Self {
        let key = PrivateKey::generate(kind).unwrap();
        let subject = subject("Test intermediate");
        let request = CaRequest { key: &key, subject: &subject, days: 90, now: long_ago(), serial: serial() };
        let certificate = ceremony::intermediate_certificate(&request, 0, &self.root, self.root_key()).unwrap();
        self.key_pem = key.to_pem();
        self.write("ca-key.pem", &self.key_pem);
        self.write("ca-cert.pem", &certificate.pem());
        self.write("cert-chain.pem", &(certificate.pem() + &self.root.pem()));
        self.write("root-cert.pem", &self.root.pem());
        self
    }

    /// Replaces the signing certificate by one of these parameters, signed by the root, for the same key.
    pub(crate) fn sign_as(&self, parameters: &CertificateParams) {
        let key = PrivateKey::from_pem(&self.key_pem).unwrap();
        let root_key = self.root_key();
        let issuer = Issuer::from_ca_cert_der(self.root.der(), root_key.pair()).unwrap();
        let certificate = parameters.signed_by(key.pair(), &issuer).unwrap().pem();
        self.write("ca-cert.pem", &certificate);
        self.write("cert-chain.pem", &certificate);
    }

    pub(crate) fn root_key(&self) -> PrivateKey {
        PrivateKey::from_pem(&self.root_key_pem).unwrap()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, contents: &str) {
        fs::write(self.path().join(name), contents).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }

    pub(crate) fn load(&self) -> Result<SigningCa, LoadError> {
        ca::load(self.path(), Timestamp::now())
    }
}

/// Returns what an intermediate says, to be changed by a test.
pub(crate) fn intermediate_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "Foreign intermediate");
    parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.not_before = date(-1);
    parameters.not_after = date(30);
    parameters
}

/// Returns the time that many days from now.
pub(crate) fn date(days: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(Timestamp::now().as_second() + days * 86_400).unwrap()
}

/// Returns a CSR that asks to be somebody else.
pub(crate) fn greedy_request(key: &PrivateKey) -> String {
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = vec![
        SanType::URI("spiffe://cluster.local/ns/istio-system/sa/istiod".try_into().unwrap()),
        SanType::DnsName("istiod.istio-system.svc".try_into().unwrap()),
    ];
    parameters.distinguished_name.push(DnType::CommonName, "istiod");
    parameters.serialize_request(key.pair()).unwrap().pem().unwrap()
}

pub(crate) fn reviews() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/reviews").unwrap()
}

pub(crate) fn serial() -> Serial {
    Serial::random().unwrap()
}

/// Runs openssl, which the README asks for; its output.
pub(crate) fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("the openssl command");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
    text
}

fn subject(name: &str) -> CaSubject {
    CaSubject { organization: "Test".into(), common_name: name.into() }
}

fn long_ago() -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(48)
}

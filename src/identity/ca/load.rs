//! Reading a CA from a folder or a Secret, and the checks that it must pass before we sign with it (contract §4.4).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    IssuePolicy, LoadError, REVOCATION_FILE, RevocationError, SigningCa,
    root_keys::{find_root_keys, root_key_in},
};
use crate::{
    identity::{
        certificate::{Certificate, CertificateError},
        key::{KeyType, PrivateKey},
        serial::Serial,
    },
    mesh::model::SpiffeId,
    system_error::explain,
};

const ISTIO_FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"];
const KUBERNETES_FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// The certificate of the CA that is to follow; it is there while a rotation is on.
pub const NEXT_CERTIFICATE: &str = "next-ca-cert.pem";

/// The longest chain; a longer one is a mistake, or a loop.
const LONGEST_PATH: usize = 8;

/// The names of the files that a CA consists of.
struct FileNames {
    signing: &'static str,
    key: &'static str,
    roots: &'static str,
    chain: &'static str,
}

const ISTIO: FileNames = FileNames { signing: "ca-cert.pem", key: "ca-key.pem", roots: "root-cert.pem", chain: "cert-chain.pem" };
const KUBERNETES: FileNames = FileNames { signing: "tls.crt", key: "tls.key", roots: "ca.crt", chain: "tls.crt" };

/// Reads and checks the CA in a folder: Istio's four files, or those of a `kubernetes.io/tls` secret.
pub fn load(folder: &Path, now: Timestamp) -> Result<SigningCa, LoadError> {
    let files = CaFiles::of_folder(folder)?;
    let names = files.choose_form()?;
    let roots = files.roots(names)?;
    if let Some(error) = find_root_keys(folder, &roots.read)?.pop() {
        return Err(error);
    }
    let rotates = folder.join(NEXT_CERTIFICATE).exists();
    files.intermediate(names, roots, now).map(|ca| SigningCa { rotates, ..ca })
}

/// Returns whether somebody put a CA, or a part of one, into the folder. A CA that istiod made by itself and keeps in Secret
/// `cacerts` (`istio-generated`) does not count.
pub fn holds_ca(folder: &Path) -> bool {
    file_names().any(|name| folder.join(name).exists()) && !folder.join("istio-generated").exists()
}

/// Reads and checks the CA in the entries of a Secret; `place` names the Secret in errors.
pub fn load_entries(place: &str, entries: &BTreeMap<String, Vec<u8>>, now: Timestamp) -> Result<SigningCa, LoadError> {
    let files = CaFiles::of_entries(place, entries)?;
    let names = files.choose_form()?;
    let roots = files.roots(names)?;
    for (name, contents) in entries {
        let path = files.place.join(name);
        if let Some(why) = root_key_in(&path, contents, &roots.read) {
            return Err(LoadError::RootKey { path, why });
        }
    }
    let rotates = entries.contains_key(NEXT_CERTIFICATE);
    files.intermediate(names, roots, now).map(|ca| SigningCa { rotates, ..ca })
}

/// Returns the root of `roots` to which a signing certificate chains, through certificates of `chain`.
pub fn root_above(signing: &Certificate, chain: &[Certificate], roots: &[Certificate]) -> Option<Certificate> {
    build_path(signing, &[], chain, roots, &ISTIO).ok().map(|(_, root)| root)
}

/// Reads and checks a self-signed root with its key, as `istio-ca-secret` holds it: `ca-cert.pem` and `ca-key.pem`.
///
/// It alone is trusted: whatever else `root-cert.pem` holds is not, as with istiod.
pub fn load_self_signed(place: &str, entries: &BTreeMap<String, Vec<u8>>, now: Timestamp) -> Result<SigningCa, LoadError> {
    let files = CaFiles::of_entries(place, entries)?;
    let missing: Vec<_> = [ISTIO.signing, ISTIO.key].into_iter().filter(|name| !files.contents.contains_key(name)).collect();
    if !missing.is_empty() {
        return Err(LoadError::Incomplete { folder: files.place, missing });
    }
    let root = files.first_certificate(ISTIO.signing)?;
    let key = files.key_of(&root, &ISTIO)?;
    if !root.is_self_signed() {
        let (subject, issuer) = (root.subject, root.issuer);
        return Err(LoadError::NotChained { subject, issuer, roots: ISTIO.signing, chain: ISTIO.signing });
    }
    check_path(&[], &root, now)?;
    let roots = Roots { read: vec![root.clone()], passed_over: Vec::new() };
    checked(key, Vec::new(), roots, root, now)
}

/// The certificates of a root file.
struct Roots {
    read: Vec<Certificate>,
    /// What is wrong with those that cannot be read.
    passed_over: Vec<LoadError>,
}

/// Those files of a CA that are there.
struct CaFiles {
    place: PathBuf,
    contents: BTreeMap<&'static str, String>,
    /// The lists of revoked certificates, or why they cannot be read.
    revocation: Option<Result<String, RevocationError>>,
}

impl CaFiles {
    fn of_folder(folder: &Path) -> Result<Self, LoadError> {
        fs::read_dir(folder).map_err(|error| LoadError::Folder { folder: folder.into(), error })?;
        let mut contents = BTreeMap::new();
        for name in file_names().filter(|name| folder.join(name).exists()) {
            let path = folder.join(name);
            contents.insert(name, fs::read_to_string(&path).map_err(|error| LoadError::Io { path, error })?);
        }
        let path = folder.join(REVOCATION_FILE);
        let read = || fs::read(&path).map(lossy).map_err(|error| RevocationError::Io(explain(&error)));
        Ok(Self { place: folder.into(), contents, revocation: path.exists().then(read) })
    }

    fn of_entries(place: &str, entries: &BTreeMap<String, Vec<u8>>) -> Result<Self, LoadError> {
        let place = PathBuf::from(place);
        let mut contents = BTreeMap::new();
        for (name, bytes) in file_names().filter_map(|name| Some((name, entries.get(name)?))) {
            let text = String::from_utf8(bytes.clone()).map_err(|_| LoadError::Io {
                path: place.join(name),
                error: io::Error::new(io::ErrorKind::InvalidData, "not PEM but binary; write it as PEM"),
            })?;
            contents.insert(name, text);
        }
        let revocation = entries.get(REVOCATION_FILE).map(|bytes| Ok(lossy(bytes.clone())));
        Ok(Self { place, contents, revocation })
    }

    fn choose_form(&self) -> Result<&'static FileNames, LoadError> {
        let missing = |names: &[&'static str]| names.iter().copied().filter(|name| !self.contents.contains_key(name)).collect::<Vec<_>>();
        let (istio, kubernetes) = (missing(&ISTIO_FILES), missing(&KUBERNETES_FILES));
        if istio.is_empty() {
            return Ok(&ISTIO);
        }
        if kubernetes.is_empty() {
            return Ok(&KUBERNETES);
        }
        let folder = self.place.clone();
        match (istio.len() < ISTIO_FILES.len(), kubernetes.len() < KUBERNETES_FILES.len()) {
            (true, _) => Err(LoadError::Incomplete { folder, missing: istio }),
            (false, true) => Err(LoadError::Incomplete { folder, missing: kubernetes }),
            (false, false) => Err(LoadError::Empty { folder }),
        }
    }

    /// Checks a CA below a root whose key is elsewhere.
    fn intermediate(&self, names: &FileNames, mut roots: Roots, now: Timestamp) -> Result<SigningCa, LoadError> {
        let beside = self.certificates(names.signing)?;
        let chain = self.certificates(names.chain)?;
        let signing = self.first_certificate(names.signing)?;
        if signing.is_self_signed() {
            let why = "the signing certificate is self-signed, so its key is a root key";
            return Err(LoadError::RootKey { path: self.place.join(names.key), why });
        }
        let key = self.key_of(&signing, names)?;
        let built = build_path(&signing, &beside, &chain, &roots.read, names);
        // The root may be the one that cannot be read.
        let (path, root) = built.map_err(|error| roots.passed_over.pop().unwrap_or(error))?;
        check_path(&path, &root, now)?;
        let mut ca = checked(key, path, roots, root, now)?;
        if let Some(text) = &self.revocation {
            ca.read_revocation(text.as_deref().map_err(Clone::clone), now);
        }
        Ok(ca)
    }

    /// Returns the roots, of which one that cannot be read does not matter where another one is the CA's.
    fn roots(&self, names: &FileNames) -> Result<Roots, LoadError> {
        let file = names.roots;
        let (read, errors) = Certificate::each_from_pem(self.contents.get(file).map_or("", String::as_str));
        let mut passed_over: Vec<_> = errors.into_iter().map(|error| LoadError::Certificate { file, error }).collect();
        if read.is_empty() {
            return Err(passed_over.pop().unwrap_or(LoadError::Certificate { file, error: CertificateError::Missing }));
        }
        Ok(Roots { read, passed_over })
    }

    fn certificates(&self, file: &'static str) -> Result<Vec<Certificate>, LoadError> {
        let text = self.contents.get(file).map_or("", String::as_str);
        Certificate::all_from_pem(text).map_err(|error| LoadError::Certificate { file, error })
    }

    fn first_certificate(&self, file: &'static str) -> Result<Certificate, LoadError> {
        let missing = LoadError::Certificate { file, error: CertificateError::Missing };
        self.certificates(file)?.into_iter().next().ok_or(missing)
    }

    fn key_of(&self, signing: &Certificate, names: &FileNames) -> Result<PrivateKey, LoadError> {
        let text = self.contents.get(names.key).map_or("", String::as_str);
        let key = PrivateKey::from_pem(text).map_err(|error| LoadError::Key { file: names.key, error })?;
        if signing.public_key != key.public_key() {
            let subject = signing.subject.clone();
            return Err(LoadError::KeyMismatch { key: names.key, certificate: names.signing, subject });
        }
        Ok(key)
    }
}

/// Returns bytes as text: what is no text in it is no PEM either.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn file_names() -> impl Iterator<Item = &'static str> {
    ISTIO_FILES.into_iter().chain(KUBERNETES_FILES)
}

fn checked(key: PrivateKey, path: Vec<Certificate>, roots: Roots, root: Certificate, now: Timestamp) -> Result<SigningCa, LoadError> {
    let mut ca = SigningCa::new(key, path, roots.read, root).map_err(|error| LoadError::Trial { reason: error.to_string() })?;
    ca.passed_over = roots.passed_over.iter().map(ToString::to_string).collect();
    verify_trial(&ca, now)?;
    Ok(ca)
}

/// Returns the certificates from the signing one upwards, and the root above them.
fn build_path(
    signing: &Certificate,
    beside: &[Certificate],
    chain: &[Certificate],
    roots: &[Certificate],
    names: &FileNames,
) -> Result<(Vec<Certificate>, Certificate), LoadError> {
    let mut path = vec![signing.clone()];
    while let Some(last) = path.last().filter(|_| path.len() <= LONGEST_PATH) {
        if let Some(root) = roots.iter().find(|root| last.is_issued_by(root)) {
            return Ok((path, root.clone()));
        }
        let Some(next) = beside.iter().chain(chain).find(|parent| !path.contains(parent) && last.is_issued_by(parent)) else {
            break;
        };
        path.push(next.clone());
    }
    let last = path.last().unwrap_or(signing);
    Err(LoadError::NotChained { subject: last.subject.clone(), issuer: last.issuer.clone(), roots: names.roots, chain: names.chain })
}

fn check_path(path: &[Certificate], root: &Certificate, now: Timestamp) -> Result<(), LoadError> {
    for (below, ca) in path.iter().chain([root]).enumerate() {
        let subject = ca.subject.clone();
        if !ca.is_ca {
            return Err(LoadError::NotCa { subject });
        }
        if !ca.signs_certificates {
            return Err(LoadError::NoCertSign { subject });
        }
        if let Some(allowed) = ca.path_length.filter(|allowed| (*allowed as usize) < below) {
            return Err(LoadError::PathLength { subject, allowed, below });
        }
        if now > ca.not_after {
            return Err(LoadError::Expired { subject, not_after: ca.not_after });
        }
        if now < ca.not_before {
            return Err(LoadError::NotYetValid { subject, not_before: ca.not_before });
        }
    }
    Ok(())
}

/// Signs a workload certificate and verifies it as a proxy would: this finds at the start what no other check knows of.
fn verify_trial(ca: &SigningCa, now: Timestamp) -> Result<(), LoadError> {
    let failed = |reason: String| LoadError::Trial { reason };
    let caller = SpiffeId { trust_domain: "cluster.local".into(), namespace: "trial".into(), service_account: "trial".into() };
    let key = PrivateKey::generate(KeyType::P256).map_err(|error| failed(error.to_string()))?;
    let request = certificate_request(key.pair())?;
    let serial = Serial::random().map_err(|error| failed(error.to_string()))?;
    let issued = ca.issue(&request, &caller, 0, &IssuePolicy::default(), now, serial).map_err(|error| failed(error.to_string()))?;
    let leaf = Certificate::from_der(issued.leaf_der()).map_err(failed)?;
    if !leaf.is_issued_by(ca.certificate()) {
        return Err(failed("its issuer name or signature is not that of the signing certificate".into()));
    }
    let path: Vec<CertificateDer<'_>> = ca.path().iter().map(|certificate| certificate.der().clone()).collect();
    verify_client(ca.roots(), leaf.der(), &path, now).map_err(|error| {
        match ca.path().iter().chain([ca.root()]).find_map(|ca| Some((ca, ca.name_constraints.as_ref()?))) {
            Some((ca, constraints)) => LoadError::NameConstraints { subject: ca.subject.clone(), constraints: constraints.clone() },
            None => failed(error),
        }
    })
}

fn certificate_request(key: &KeyPair) -> Result<String, LoadError> {
    let request = rcgen::CertificateParams::default().serialize_request(key).and_then(|request| request.pem());
    request.map_err(|error| LoadError::Trial { reason: error.to_string() })
}

fn verify_client(roots: &[Certificate], leaf: &CertificateDer<'_>, path: &[CertificateDer<'_>], now: Timestamp) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().map(|root| root.der().clone()));
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), provider).build().map_err(|error| error.to_string())?;
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier.verify_client_cert(leaf, path, now).map(drop).map_err(|error| error.to_string())
}

//! Reading a CA folder, and everything that must hold before we sign with it (contract §4.4).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{IssuePolicy, Serial, SigningCa};
use crate::{
    identity::{
        certificate::{Certificate, CertificateError},
        key::{self, KeyError, KeyType, PrivateKey},
    },
    mesh::model::SpiffeId,
};

const ISTIO_FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"];
const KUBERNETES_FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// Longer chains than this are a mistake, or a loop.
const LONGEST_PATH: usize = 8;
/// A file of keys or certificates is not larger.
const LARGEST_FILE: u64 = 1 << 20;

/// Why a CA folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder or a file in it cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// None of the files is there.
    #[error(
        "{}: no CA here: neither ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem nor tls.crt, tls.key, ca.crt",
        folder.display()
    )]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// Some files are there, others not.
    #[error("{}: the CA is incomplete: {} missing", folder.display(), missing.join(", "))]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// Names of the missing files.
        missing: Vec<&'static str>,
    },
    /// The root's private key lies in the folder, or may.
    #[error(
        "{}: {why}; a root key must never be where the control plane runs: keep it offline, and give this folder an \
         intermediate made by `istiod-lite ca intermediate`",
        path.display()
    )]
    RootKey {
        /// The file.
        path: PathBuf,
        /// How it is known.
        why: &'static str,
    },
    /// A certificate file cannot be read.
    #[error("{file} {error}")]
    Certificate {
        /// The file's name.
        file: &'static str,
        /// Why.
        error: CertificateError,
    },
    /// The key file cannot be read.
    #[error("{file} {error}")]
    Key {
        /// The file's name.
        file: &'static str,
        /// Why.
        error: KeyError,
    },
    /// The key is another certificate's.
    #[error("{key} is not the key of {certificate} (subject {subject})")]
    KeyMismatch {
        /// The key's file.
        key: &'static str,
        /// The certificate's file.
        certificate: &'static str,
        /// Its subject.
        subject: String,
    },
    /// A certificate above the leaf is no CA.
    #[error("{subject}: not a CA certificate (basic constraints)")]
    NotCa {
        /// The certificate's subject.
        subject: String,
    },
    /// A certificate above the leaf may not sign certificates.
    #[error("{subject}: its key usage lacks keyCertSign")]
    NoCertSign {
        /// The certificate's subject.
        subject: String,
    },
    /// A CA allows fewer CAs below itself than there are.
    #[error("{subject}: path length {allowed} allows fewer than the {below} CA certificates below it")]
    PathLength {
        /// The certificate's subject.
        subject: String,
        /// What it allows.
        allowed: u32,
        /// How many there are.
        below: usize,
    },
    /// Too late.
    #[error("{subject}: expired at {not_after}")]
    Expired {
        /// The certificate's subject.
        subject: String,
        /// Its end.
        not_after: Timestamp,
    },
    /// Too early.
    #[error("{subject}: not valid before {not_before}")]
    NotYetValid {
        /// The certificate's subject.
        subject: String,
        /// Its begin.
        not_before: Timestamp,
    },
    /// No path to a root.
    #[error("{subject}: not signed by a root in {roots}, nor by a certificate in {chain} (its issuer is {issuer})")]
    NotChained {
        /// The certificate's subject.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// The root file.
        roots: &'static str,
        /// The chain file.
        chain: &'static str,
    },
    /// Proxies would refuse what it signs, because of name constraints.
    #[error(
        "{subject}: its name constraints ({constraints}) are the cause that verifiers refuse every workload certificate; \
         issue the CA without them"
    )]
    NameConstraints {
        /// The certificate's subject.
        subject: String,
        /// What they say.
        constraints: String,
    },
    /// A certificate signed in a trial does not verify.
    #[error("a certificate signed in a trial does not verify: {reason}")]
    Trial {
        /// What the verifier said.
        reason: String,
    },
}

struct Names {
    signing: &'static str,
    key: &'static str,
    roots: &'static str,
    chain: &'static str,
}

const ISTIO: Names = Names { signing: "ca-cert.pem", key: "ca-key.pem", roots: "root-cert.pem", chain: "cert-chain.pem" };
const KUBERNETES: Names = Names { signing: "tls.crt", key: "tls.key", roots: "ca.crt", chain: "tls.crt" };

/// Reads and checks the CA in a folder: Istio's four files, or those of a `kubernetes.io/tls` secret.
pub fn load(folder: &Path, now: Timestamp) -> Result<SigningCa, LoadError> {
    let names = choose_form(folder)?;
    let roots = read_certificates(folder, names.roots)?;
    if let Some(error) = find_root_keys(folder, &roots)?.pop() {
        return Err(error);
    }
    let signing_file = read_certificates(folder, names.signing)?;
    let chain = read_certificates(folder, names.chain)?;
    let key = PrivateKey::from_pem(&read(folder, names.key)?).map_err(|error| LoadError::Key { file: names.key, error })?;
    let Some(signing) = signing_file.first() else {
        return Err(LoadError::Certificate { file: names.signing, error: CertificateError::Missing });
    };
    if signing.is_self_signed() {
        let why = "the signing certificate is self-signed, so its key is a root key";
        return Err(LoadError::RootKey { path: folder.join(names.key), why });
    }
    if signing.public_key != key.public_key() {
        let subject = signing.subject.clone();
        return Err(LoadError::KeyMismatch { key: names.key, certificate: names.signing, subject });
    }
    let (path, root) = build_path(signing, &signing_file[1..], &chain, &roots, &names)?;
    check_path(&path, &root, now)?;
    let ca = SigningCa::new(key, path, roots, root).map_err(|error| LoadError::Trial { reason: error.to_string() })?;
    try_out(&ca, now)?;
    Ok(ca)
}

/// Every file in the folder (and folders in it) that is, or may be, the private key of a root.
pub fn find_root_keys(folder: &Path, roots: &[Certificate]) -> Result<Vec<LoadError>, LoadError> {
    let mut found = Vec::new();
    search_root_keys(folder, roots, 0, &mut found)?;
    Ok(found)
}

fn choose_form(folder: &Path) -> Result<Names, LoadError> {
    let missing = |names: &[&'static str]| names.iter().copied().filter(|name| !folder.join(name).exists()).collect::<Vec<_>>();
    fs::read_dir(folder).map_err(|error| LoadError::Io { path: folder.into(), error })?;
    let (istio, kubernetes) = (missing(&ISTIO_FILES), missing(&KUBERNETES_FILES));
    if istio.is_empty() {
        return Ok(ISTIO);
    }
    if kubernetes.is_empty() {
        return Ok(KUBERNETES);
    }
    let folder = folder.to_path_buf();
    match (istio.len() < ISTIO_FILES.len(), kubernetes.len() < KUBERNETES_FILES.len()) {
        (true, _) => Err(LoadError::Incomplete { folder, missing: istio }),
        (false, true) => Err(LoadError::Incomplete { folder, missing: kubernetes }),
        (false, false) => Err(LoadError::Empty { folder }),
    }
}

fn read(folder: &Path, name: &str) -> Result<String, LoadError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(|error| LoadError::Io { path, error })
}

fn read_certificates(folder: &Path, file: &'static str) -> Result<Vec<Certificate>, LoadError> {
    Certificate::all_from_pem(&read(folder, file)?).map_err(|error| LoadError::Certificate { file, error })
}

fn search_root_keys(folder: &Path, roots: &[Certificate], depth: usize, found: &mut Vec<LoadError>) -> Result<(), LoadError> {
    let failed = |error| LoadError::Io { path: folder.to_path_buf(), error };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A link to nowhere, or a file that went while we looked, holds no key.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < 3 {
            search_root_keys(&path, roots, depth + 1, found)?;
        } else if metadata.is_file() && metadata.len() <= LARGEST_FILE {
            let contents = fs::read(&path).map_err(|error| LoadError::Io { path: path.clone(), error })?;
            if let Some(why) = root_key_in(&path, &contents, roots) {
                found.push(LoadError::RootKey { path, why });
            }
        }
    }
    Ok(())
}

fn root_key_in(path: &Path, contents: &[u8], roots: &[Certificate]) -> Option<&'static str> {
    if path.file_name().is_some_and(|name| name == "root-key.pem") {
        return Some("a root key by its name");
    }
    let is_roots = |key: &PrivateKey| roots.iter().any(|root| root.public_key == key.public_key());
    let blocks = pem::parse_many(contents).unwrap_or_default();
    let keys: Vec<_> = blocks.iter().filter(|block| block.tag().ends_with("PRIVATE KEY")).collect();
    if keys.iter().any(|block| key::is_encrypted(block)) {
        return Some("an encrypted private key, which may be the root's");
    }
    let mut readable = keys.iter().map(|block| block.contents()).chain(blocks.is_empty().then_some(contents));
    let found = readable.any(|der| PrivateKey::from_der(der).is_ok_and(|key| is_roots(&key)));
    found.then_some("the private key of a root certificate")
}

/// From the signing certificate up to, and without, a root.
fn build_path(
    signing: &Certificate,
    beside: &[Certificate],
    chain: &[Certificate],
    roots: &[Certificate],
    names: &Names,
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

/// Signs a workload certificate and verifies it as a proxy would, so that what no check above knows of is found at start.
fn try_out(ca: &SigningCa, now: Timestamp) -> Result<(), LoadError> {
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

//! Secrets that the control plane names by their files (contract §3.2): `file-root:PATH`, `file-root:system` and
//! `file-cert:CERTIFICATE~KEY`, for clusters and servers whose certificates the pod's owner mounts.
//!
//! Files are read again while a stream wants them. Files that cannot be used, because they are gone, half written or do not fit
//! together, do not replace what was good before.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, io,
    path::{Path, PathBuf},
};

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, TlsCertificate, secret};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::io::AsyncReadExt;
use tracing::{info, warn};

use super::{Encoded, encode, inline};

/// The largest file.
const LARGEST_FILE: u64 = 4 << 20;
/// Where systems keep their bundle of certificates; `SSL_CERT_FILE` goes first.
const SYSTEM_BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// The files that a secret's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SecretFiles {
    Roots(PathBuf),
    SystemRoots,
    Certificate { chain: PathBuf, key: PathBuf },
}

/// The secrets from files that one stream wants, as they were when they were last good.
#[derive(Debug, Default)]
pub(super) struct FileSecrets {
    good: BTreeMap<String, Encoded>,
    /// Why a name has nothing new; logged once.
    faults: BTreeMap<String, String>,
}

/// Returns whether the name stands for files.
pub(super) fn is_file(name: &str) -> bool {
    SecretFiles::parse(name).is_some()
}

impl FileSecrets {
    /// Reads the files of the names that stand for files, and forgets all others.
    pub(super) async fn refresh(&mut self, wanted: &BTreeSet<String>) {
        self.good.retain(|name, _| wanted.contains(name));
        self.faults.retain(|name, _| wanted.contains(name));
        for (name, files) in wanted.iter().filter_map(|name| Some((name, SecretFiles::parse(name)?))) {
            match files.read().await {
                Ok(kind) => self.accept(name, encode(name, kind)),
                Err(fault) => self.refuse(name, fault),
            }
        }
    }

    /// Returns the secret, if it was ever good.
    pub(super) fn get(&self, name: &str) -> Option<&Encoded> {
        self.good.get(name)
    }

    fn accept(&mut self, name: &str, secret: Encoded) {
        self.faults.remove(name);
        let version = secret.version.clone();
        match self.good.insert(name.to_owned(), secret) {
            Some(before) if before.version != version => info!(name, "files have changed"),
            _ => {}
        }
    }

    fn refuse(&mut self, name: &str, fault: String) {
        if self.faults.get(name) != Some(&fault) {
            warn!(name, kept = self.good.contains_key(name), "unusable files: {fault}");
            self.faults.insert(name.to_owned(), fault);
        }
    }
}

// === impl SecretFiles ===

impl SecretFiles {
    fn parse(name: &str) -> Option<Self> {
        if let Some(path) = name.strip_prefix("file-root:") {
            return Some(if path == "system" { Self::SystemRoots } else { Self::Roots(path.into()) });
        }
        let (chain, key) = name.strip_prefix("file-cert:")?.split_once('~')?;
        Some(Self::Certificate { chain: chain.into(), key: key.into() })
    }

    async fn read(&self) -> Result<secret::Type, String> {
        match self {
            Self::Roots(path) => roots(path).await,
            Self::SystemRoots => roots(&system_bundle().ok_or("this system has no bundle of certificates")?).await,
            Self::Certificate { chain, key } => certificate(chain, key).await,
        }
    }
}

async fn roots(path: &Path) -> Result<secret::Type, String> {
    let pem = contents(path).await?;
    certificates(path, &pem)?;
    Ok(secret::Type::ValidationContext(CertificateValidationContext { trusted_ca: Some(inline(&pem)), ..Default::default() }))
}

/// Reads a chain and its key. Both may be replaced between the two reads, so they must fit together.
async fn certificate(chain_path: &Path, key_path: &Path) -> Result<secret::Type, String> {
    let (chain, key) = (contents(chain_path).await?, contents(key_path).await?);
    let leaf_first = certificates(chain_path, &chain)?;
    let private = PrivateKeyDer::from_pem_slice(&key).map_err(|_| format!("{}: holds no private key", key_path.display()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(leaf_first, private, &provider)
        .map_err(|error| format!("{} and {} do not fit together: {error}", chain_path.display(), key_path.display()))?;
    Ok(secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(&chain)),
        private_key: Some(inline(&key)),
        ..Default::default()
    }))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{}: holds no certificate, or one that is not PEM", path.display())),
    }
}

async fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let read = async {
        let mut contents = Vec::new();
        tokio::fs::File::open(path).await?.take(LARGEST_FILE + 1).read_to_end(&mut contents).await?;
        if contents.len() as u64 > LARGEST_FILE {
            return Err(io::Error::other(format!("is larger than {LARGEST_FILE} bytes")));
        }
        Ok(contents)
    };
    read.await.map_err(|error| format!("{}: {error}", path.display()))
}

fn system_bundle() -> Option<PathBuf> {
    let configured = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    configured.into_iter().chain(SYSTEM_BUNDLES.map(PathBuf::from)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn write_pair(folder: &TempDir, what: (bool, bool)) {
        let key = KeyPair::generate().unwrap();
        if what.0 {
            fs::write(folder.path().join("cert.pem"), CertificateParams::default().self_signed(&key).unwrap().pem()).unwrap();
        }
        if what.1 {
            fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        }
    }

    #[test]
    fn names_are_understood() {
        assert_eq!(SecretFiles::parse("file-root:/a/b.pem"), Some(SecretFiles::Roots("/a/b.pem".into())));
        assert_eq!(SecretFiles::parse("file-root:system"), Some(SecretFiles::SystemRoots));
        let expected = SecretFiles::Certificate { chain: "/a".into(), key: "/b".into() };
        assert_eq!(SecretFiles::parse("file-cert:/a~/b"), Some(expected));
        for other in ["default", "ROOTCA", "file-cert:/a", "kubernetes://x"] {
            assert!(!is_file(other), "{other}");
        }
    }

    #[tokio::test]
    async fn what_is_half_written_does_not_replace_what_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (pair, root) = (format!("file-cert:{}~{}", path("cert.pem"), path("key.pem")), format!("file-root:{}", path("cert.pem")));
        let wanted = BTreeSet::from([pair.clone(), root.clone(), "default".to_owned()]);
        let mut files = FileSecrets::default();
        files.refresh(&wanted).await;
        assert!(files.get(&pair).is_none() && files.faults[&pair].contains("cert.pem"), "{:?}", files.faults);
        write_pair(&folder, (true, true));
        files.refresh(&wanted).await;
        let good = files.get(&pair).unwrap().version.clone();
        assert!(files.get(&root).is_some() && files.get("default").is_none() && files.faults.is_empty());
        write_pair(&folder, (true, false));
        files.refresh(&wanted).await;
        assert_eq!(files.get(&pair).unwrap().version, good);
        assert!(files.faults[&pair].contains("do not fit together"), "{:?}", files.faults);
        write_pair(&folder, (true, true));
        files.refresh(&wanted).await;
        assert_ne!(files.get(&pair).unwrap().version, good);
        let good = files.get(&pair).unwrap().version.clone();
        fs::remove_file(folder.path().join("cert.pem")).unwrap();
        files.refresh(&wanted).await;
        assert_eq!(files.get(&pair).unwrap().version, good, "gone is not empty");
        files.refresh(&BTreeSet::new()).await;
        assert!(files.get(&pair).is_none());
    }

    #[tokio::test]
    async fn roots_are_certificates_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        fs::write(&path, "hello").unwrap();
        assert!(roots(&path).await.unwrap_err().contains("holds no certificate"));
        fs::write(&path, vec![b' '; (LARGEST_FILE + 1) as usize]).unwrap();
        assert!(roots(&path).await.unwrap_err().contains("is larger than"));
    }
}

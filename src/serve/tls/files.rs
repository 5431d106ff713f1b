//! A serving certificate that somebody else issues and keeps in files, as istio-csr does (contract §4.6).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::error::TlsError;
use crate::{
    identity::certificate::{Certificate, CertificateError},
    system_error::explain,
};

/// Where the chart mounts Secret `istiod-tls`.
const MOUNTED_TLS: &str = "var/run/secrets/istiod/tls";
/// Where the chart mounts the root certificate's ConfigMap.
const MOUNTED_ROOTS: &str = "var/run/secrets/istiod/ca/root-cert.pem";

/// The files of a serving certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingFiles {
    /// `--tlsCertFile`: the certificate, followed by those between it and the root.
    pub certificate: PathBuf,
    /// `--tlsKeyFile`: its key.
    pub key: PathBuf,
    /// `--caCertFile`: the roots by which clients verify it. They are what webhooks and namespaces are given.
    pub roots: PathBuf,
}

/// The texts of the files: certificate, key, roots.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileTexts([String; 3]);

/// The files, parsed.
pub(super) struct ParsedFiles {
    /// The certificate first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub(super) key: PrivateKeyDer<'static>,
    /// PEM of the roots.
    pub(super) roots: Arc<str>,
}

impl ServingFiles {
    /// Returns the files that are mounted where istiod looks for them; `None` if one of the three is missing.
    pub fn mounted() -> Option<Self> {
        Self::mounted_below(Path::new("/"))
    }

    fn mounted_below(root: &Path) -> Option<Self> {
        let tls = root.join(MOUNTED_TLS);
        let roots = [root.join(MOUNTED_ROOTS), tls.join("ca.crt")].into_iter().find(|path| path.is_file())?;
        let files = Self { certificate: tls.join("tls.crt"), key: tls.join("tls.key"), roots };
        (files.certificate.is_file() && files.key.is_file()).then_some(files)
    }

    /// Reads the files.
    pub(super) fn texts(&self) -> Result<FileTexts, TlsError> {
        let text = |path: &Path| fs::read_to_string(path).map_err(|error| wrong(path, format!("cannot be read: {}", explain(&error))));
        Ok(FileTexts([text(&self.certificate)?, text(&self.key)?, text(&self.roots)?]))
    }

    /// Parses the texts, and logs the certificates in them.
    pub(super) fn parse(&self, FileTexts([certificate, key, roots]): &FileTexts) -> Result<ParsedFiles, TlsError> {
        let certificates = |path: &Path, text: &str| Certificate::all_from_pem(text).map_err(|error| wrong(path, error.to_string()));
        let chain = certificates(&self.certificate, certificate)?;
        let (root_certificates, roots) = self.roots(roots)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        // What the error says may be a line of the key.
        let key = key.map_err(|_| wrong(&self.key, "holds no private key in PEM without a passphrase".to_owned()))?;
        chain.iter().chain(&root_certificates).for_each(Certificate::log);
        Ok(ParsedFiles { chain: chain.iter().map(|certificate| certificate.der().clone()).collect(), key, roots: roots.into() })
    }

    /// Returns the roots and their PEM, without those that cannot be read: the API server would refuse them all.
    fn roots(&self, text: &str) -> Result<(Vec<Certificate>, String), TlsError> {
        let (roots, mut unreadable) = Certificate::each_from_pem(text);
        if roots.is_empty() {
            return Err(wrong(&self.roots, unreadable.pop().unwrap_or(CertificateError::Missing).to_string()));
        }
        for error in &unreadable {
            tracing::warn!("a root certificate is passed over, and is trusted by nobody: {} {error}", self.roots.display());
        }
        let pem = if unreadable.is_empty() { text.to_owned() } else { roots.iter().map(Certificate::pem).collect() };
        Ok((roots, pem))
    }
}

fn wrong(path: &Path, why: String) -> TlsError {
    TlsError::File { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_files_are_taken_when_all_are_there() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let found = || ServingFiles::mounted_below(root.path());
        write("var/run/secrets/istiod/ca/root-cert.pem");
        assert_eq!(found(), None, "the ConfigMap alone is mounted everywhere");
        write("var/run/secrets/istiod/tls/tls.crt");
        write("var/run/secrets/istiod/tls/tls.key");
        assert_eq!(found().unwrap().roots, root.path().join(MOUNTED_ROOTS));
        fs::remove_file(root.path().join(MOUNTED_ROOTS)).unwrap();
        assert_eq!(found(), None);
        write("var/run/secrets/istiod/tls/ca.crt");
        assert_eq!(found().unwrap().roots, root.path().join("var/run/secrets/istiod/tls/ca.crt"));
    }
}

//! Key, certificate and roots as files, for what stands beside the proxy and speaks mutual TLS by itself: a Prometheus that scrapes
//! through sidecars, above all (`OUTPUT_CERTS`).

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::certificate::{CurrentCertificate, WorkloadCertificate};

/// Who may read the files: in a pod, other containers run as other users.
const IN_A_POD: u32 = 0o644;
const ELSEWHERE: u32 = 0o600;

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputFolder {
    /// The folder, which must exist.
    pub path: PathBuf,
    /// Whether this is a pod of Kubernetes.
    pub in_a_pod: bool,
}

/// Writes the files whenever the certificate or its roots change. Ends with the sender of `current`. A folder that cannot be written is
/// told, and tried again with the next certificate: the proxy does not depend on it.
pub(crate) async fn follow(mut current: CurrentCertificate, folder: OutputFolder) {
    loop {
        let certificate = current.borrow_and_update().clone();
        if let Some(certificate) = certificate {
            match folder.write(&certificate) {
                Ok(()) => info!("certificate written to {}", folder.path.display()),
                Err(error) => warn!("OUTPUT_CERTS: {}: {error}", folder.path.display()),
            }
        }
        if current.changed().await.is_err() {
            return;
        }
    }
}

impl OutputFolder {
    /// Writes each file in one step, the key first: whoever reads between two steps finds that they do not match, and reads again.
    fn write(&self, certificate: &WorkloadCertificate) -> io::Result<()> {
        let files =
            [("key.pem", certificate.key_pem()), ("cert-chain.pem", certificate.chain_pem()), ("root-cert.pem", certificate.root_pem())];
        files.into_iter().try_for_each(|(name, pem)| self.replace(&self.path.join(name), pem))
    }

    fn replace(&self, path: &Path, pem: &str) -> io::Result<()> {
        if fs::read_to_string(path).is_ok_and(|written| written == pem) {
            return Ok(());
        }
        let draft = path.with_extension("pem.draft");
        // A draft of an agent that was killed may be readable by others.
        let _ = fs::remove_file(&draft);
        let mut file = File::create_new(&draft)?;
        file.set_permissions(Permissions::from_mode(if self.in_a_pod { IN_A_POD } else { ELSEWHERE }))?;
        file.write_all(pem.as_bytes())?;
        fs::rename(draft, path)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(root: &str) -> WorkloadCertificate {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&key).unwrap().pem();
        WorkloadCertificate::from_answer(&key, &[leaf, root.to_owned()]).unwrap()
    }

    #[test]
    fn the_files_are_those_of_the_last_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        for (in_a_pod, mode) in [(false, 0o600), (true, 0o644)] {
            let output = OutputFolder { path: folder.path().to_owned(), in_a_pod };
            let certificate = certificate("roots\n");
            output.write(&certificate).unwrap();
            assert_eq!(read("key.pem"), certificate.key_pem());
            assert_eq!(read("cert-chain.pem"), certificate.chain_pem());
            assert_eq!(read("root-cert.pem"), certificate.root_pem());
            assert_eq!(fs::metadata(folder.path().join("key.pem")).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no draft is left");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let output = OutputFolder { path: "/nowhere/at/all".into(), in_a_pod: true };
        assert!(output.write(&certificate("roots\n")).is_err());
    }
}

//! The roots that peers may chain to: those that came with the workload's certificate, and those that the control plane keeps in the
//! file of roots beside them.
//!
//! A root is replaced in steps: first everybody trusts both, then certificates change. The answer to a certificate request says what
//! is to be trusted, but the next one may be half a day away; the file (the ConfigMap `istio-ca-root-cert`) changes within a minute.
//! It counts only where it holds a root that came with the certificate: another file of roots, say of a control plane behind a
//! public certificate, says nothing about the mesh.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use tracing::info;

use super::identity::WorkloadCertificate;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(5);

/// Hands the certificate on with the roots of both, anew when either changes. Ends with the sender of `issued`.
pub async fn follow(
    mut issued: watch::Receiver<Option<Arc<WorkloadCertificate>>>,
    file: &Path,
    trusting: watch::Sender<Option<Arc<WorkloadCertificate>>>,
) {
    loop {
        let certificate = issued.borrow_and_update().clone();
        if let Some(certificate) = certificate {
            let bundle = tokio::fs::read(file).await.unwrap_or_default();
            let certificate = match joined(certificate.root_pem(), &bundle) {
                Some(roots) => Arc::new(certificate.trusting(roots)),
                None => certificate,
            };
            trusting.send_if_modified(|held| {
                let differs = held.as_ref() != Some(&certificate);
                if held.as_ref().is_some_and(|held| held.root_pem() != certificate.root_pem()) {
                    info!("other roots are trusted now");
                }
                *held = Some(certificate);
                differs
            });
        }
        tokio::select! {
            changed = issued.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// The roots that came with the certificate and all of `bundle`; `None` where that adds nothing or is not of the same mesh.
fn joined(own: &str, bundle: &[u8]) -> Option<String> {
    let found = certificates(bundle)?;
    let known = certificates(own.as_bytes())?;
    let added: Vec<&Vec<u8>> = found.difference(&known).collect();
    if added.is_empty() || found.is_disjoint(&known) {
        return None;
    }
    let blocks = added.into_iter().map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.clone())));
    Some(std::iter::once(format!("{}\n", own.trim_end())).chain(blocks).collect())
}

/// `None` for what is not PEM of certificates throughout: half a file says nothing.
fn certificates(pem: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    CertificateDer::pem_slice_iter(pem)
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn root() -> String {
        CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem().replace("\r\n", "\n")
    }

    fn count(pem: &str) -> usize {
        pem.matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn a_bundle_of_the_same_mesh_adds_its_roots() {
        let (old, new, foreign) = (root(), root(), root());
        let both = joined(&old, format!("{new}{old}").as_bytes()).unwrap();
        assert_eq!(count(&both), 2);
        assert!(both.starts_with(old.trim_end()));
        assert_eq!(joined(&old, old.as_bytes()), None, "nothing new");
        assert_eq!(joined(&old, foreign.as_bytes()), None, "another mesh, or none");
        assert_eq!(joined(&old, b""), None);
        let half = &format!("{old}{new}")[..old.len() + new.len() / 2];
        assert_eq!(joined(&old, half.as_bytes()), None, "a file that is half written");
    }

    #[tokio::test]
    async fn the_file_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root-cert.pem");
        let (old, new) = (root(), root());
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&key).unwrap().pem();
        let certificate = Arc::new(WorkloadCertificate::from_answer(&key, &[leaf, old.clone()]).unwrap());
        let (issued, issued_receiver) = watch::channel(Some(certificate.clone()));
        let (trusting, mut trusted) = watch::channel(None);
        let path = file.clone();
        let task = tokio::spawn(async move { follow(issued_receiver, &path, trusting).await });
        let roots = |held: &Option<Arc<WorkloadCertificate>>| held.as_ref().map_or(0, |held| count(held.root_pem()));
        trusted.wait_for(|held| roots(held) == 1).await.unwrap();
        std::fs::write(&file, format!("{old}{new}")).unwrap();
        trusted.wait_for(|held| roots(held) == 2).await.unwrap();
        issued.send_replace(Some(certificate));
        drop(issued);
        task.await.unwrap();
    }
}

//! The roots to which peers may chain: those that came with the workload's certificate, and those that the control plane keeps in a
//! file.
//!
//! A root is replaced in steps: first everybody trusts both roots, then certificates change. The answer to a certificate request
//! says what to trust, but the next answer may be half a day away; the file (the ConfigMap `istio-ca-root-cert`) changes within a
//! minute. The file counts only if it holds a root that came with the certificate: another file of roots, for example that of a
//! control plane behind a public certificate, says nothing about the mesh.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::{Notify, watch};
use tracing::info;

use super::{
    certificate::{CurrentCertificate, WorkloadCertificate},
    revocation::RevocationFile,
    settings::ControlPlane,
};

/// How often the file is read.
const POLL: Duration = Duration::from_secs(5);

/// Files that say whom proxies trust.
#[derive(Debug)]
pub(crate) struct TrustFiles {
    roots: PathBuf,
    revocation: RevocationFile,
}

impl TrustFiles {
    /// Returns those that the control plane keeps.
    pub(crate) fn of(control_plane: &ControlPlane) -> Self {
        Self { roots: control_plane.root_cert.clone(), revocation: RevocationFile::new(control_plane.revocation_list.clone()) }
    }
}

/// Sends the certificate on with the roots of both and the lists of revoked ones, and again when any changes. Ends with the sender of
/// `issued`.
///
/// A file of the mesh that changes is told to `renewal`: a certificate of now says what to trust from now on, is under the root that
/// signs now, and shows the control plane that this proxy knows it.
pub(crate) async fn follow(
    mut issued: CurrentCertificate,
    mut files: TrustFiles,
    joined: watch::Sender<Option<Arc<WorkloadCertificate>>>,
    renewal: &Notify,
) {
    let mut known: Option<Vec<u8>> = None;
    loop {
        let certificate = issued.borrow_and_update().clone();
        if let Some(certificate) = certificate {
            let bundle = tokio::fs::read(&files.roots).await.unwrap_or_default();
            let changed = is_of_mesh(certificate.root_pem(), &bundle) && known.as_ref() != Some(&bundle);
            if changed && known.replace(bundle.clone()).is_some() {
                info!("the mesh's roots have changed: renewing the certificate");
                renewal.notify_one();
            }
            let certificate = match join(certificate.root_pem(), &bundle) {
                Some(roots) => Arc::new(certificate.with_roots(roots)),
                None => certificate,
            };
            let certificate = match files.revocation.lists().await {
                Some(lists) => Arc::new(certificate.with_revocation(Some(lists))),
                None => certificate,
            };
            joined.send_if_modified(|held| {
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

/// Returns whether a file holds a root that came with the certificate, and nothing but certificates.
fn is_of_mesh(own: &str, bundle: &[u8]) -> bool {
    matches!((certificates(bundle), certificates(own.as_bytes())), (Some(found), Some(known)) if !found.is_disjoint(&known))
}

/// Joins the roots that came with the certificate and those of `bundle`; `None` if `bundle` adds nothing or is of another mesh.
fn join(own: &str, bundle: &[u8]) -> Option<String> {
    let found = certificates(bundle)?;
    let known = certificates(own.as_bytes())?;
    let added: Vec<&Vec<u8>> = found.difference(&known).collect();
    if added.is_empty() || found.is_disjoint(&known) {
        return None;
    }
    let blocks = added.into_iter().map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.clone())));
    Some(std::iter::once(format!("{}\n", own.trim_end())).chain(blocks).collect())
}

/// Reads certificates; `None` if not everything is one: half a file says nothing.
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
        let both = join(&old, format!("{new}{old}").as_bytes()).unwrap();
        assert_eq!(count(&both), 2);
        assert!(both.starts_with(old.trim_end()));
        assert_eq!(join(&old, old.as_bytes()), None, "nothing new");
        assert_eq!(join(&old, foreign.as_bytes()), None, "another mesh, or none");
        assert_eq!(join(&old, b""), None);
        let half = &format!("{old}{new}")[..old.len() + new.len() / 2];
        assert_eq!(join(&old, half.as_bytes()), None, "a file that is half written");
    }

    #[tokio::test]
    async fn the_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root-cert.pem");
        let (old, new) = (root(), root());
        std::fs::write(&file, &old).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&key).unwrap().pem();
        let certificate = Arc::new(WorkloadCertificate::from_answer(&key, &[leaf, old.clone()]).unwrap());
        let (issued, issued_receiver) = watch::channel(Some(certificate.clone()));
        let (joined_sender, mut joined) = watch::channel(None);
        let files = TrustFiles { roots: file.clone(), revocation: RevocationFile::new(folder.path().join("ca-crl.pem")) };
        let renewal = Arc::new(Notify::new());
        let told = Arc::clone(&renewal);
        let task = tokio::spawn(async move { follow(issued_receiver, files, joined_sender, &told).await });
        let roots = |held: &Option<Arc<WorkloadCertificate>>| held.as_ref().map_or(0, |held| count(held.root_pem()));
        joined.wait_for(|held| roots(held) == 1).await.unwrap();
        std::fs::write(&file, format!("{old}{new}")).unwrap();
        joined.wait_for(|held| roots(held) == 2).await.unwrap();
        renewal.notified().await;
        issued.send_replace(Some(certificate));
        drop(issued);
        task.await.unwrap();
    }
}

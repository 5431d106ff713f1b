//! The roots to which peers may chain: those that came with the workload's certificate, and those that the control plane keeps in a
//! file.
//!
//! A root is replaced in steps: first everybody trusts both roots, then certificates change. The answer to a certificate request
//! says what to trust, but the next answer may be half a day away; the file (the ConfigMap `istio-ca-root-cert`) changes within a
//! minute. The file counts only if it holds a root that came with the certificate: another file of roots, for example that of a
//! control plane behind a public certificate, says nothing about the mesh.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::info;

use super::{
    certificate::{CurrentCertificate, WorkloadCertificate},
    revocation::RevocationFile,
    settings::ControlPlane,
};

/// How often the file is read.
const POLL: Duration = Duration::from_secs(5);
/// How long after the file changed a certificate is asked for once more if what it came with is not what the file says; each time twice
/// as long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

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
/// signs now, and shows the control plane that this proxy knows it. It is told again while the answers say something else than the file:
/// whichever control plane answered may have been behind the one that wrote it.
pub(crate) async fn follow(
    mut issued: CurrentCertificate,
    mut files: TrustFiles,
    joined: watch::Sender<Option<Arc<WorkloadCertificate>>>,
    renewal: &Notify,
) {
    let mut agreement = Agreement::default();
    loop {
        let certificate = issued.borrow_and_update().clone();
        if let Some(certificate) = certificate {
            let bundle = tokio::fs::read(&files.roots).await.unwrap_or_default();
            if agreement.is_to_be_sought(certificate.root_pem(), &bundle, Instant::now()) {
                info!("the mesh's roots are not those that the certificate came with: renewing it");
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

/// Whether the file and the newest answer to a request for a certificate say the same.
#[derive(Debug, Default)]
struct Agreement {
    /// What the file said last.
    file: Option<Vec<u8>>,
    /// When they are compared next; `None`: nothing has changed since they agreed.
    next: Option<Comparison>,
}

#[derive(Debug)]
struct Comparison {
    at: Instant,
    /// From then to the one after it.
    pause: Duration,
}

impl Agreement {
    /// Returns whether a certificate is to be asked for now, because the file, which says `bundle`, has changed, or because the roots
    /// that the newest certificate came with are others a while after that. Files of another mesh do not count.
    fn is_to_be_sought(&mut self, own: &str, bundle: &[u8], now: Instant) -> bool {
        let (Some(said), Some(known)) = (certificates(bundle), certificates(own.as_bytes())) else { return false };
        if !said.iter().any(|root| known.contains(root)) {
            return false;
        }
        let before = match &self.file {
            Some(file) if file == bundle => None,
            _ => Some(self.file.replace(bundle.to_vec())),
        };
        match (before, &mut self.next) {
            (Some(Some(_)), next) => {
                *next = Some(Comparison::after(AGAIN_AFTER, now));
                true
            }
            // The first file is known to be newer only by what the answer lacks.
            (Some(None), next) => {
                *next = said.iter().any(|root| !known.contains(root)).then(|| Comparison::after(AGAIN_AFTER, now));
                false
            }
            (None, next) if said == known => {
                *next = None;
                false
            }
            (None, Some(next)) if next.at <= now => {
                *next = Comparison::after(next.pause, now);
                true
            }
            (None, _) => false,
        }
    }
}

impl Comparison {
    fn after(pause: Duration, now: Instant) -> Self {
        Self { at: now + pause, pause: pause.saturating_mul(2) }
    }
}

/// Joins the roots that came with the certificate and those of `bundle`; `None` if `bundle` adds nothing or is of another mesh.
fn join(own: &str, bundle: &[u8]) -> Option<String> {
    let found = certificates(bundle)?;
    let known = certificates(own.as_bytes())?;
    let (shared, added): (BTreeSet<_>, BTreeSet<_>) = found.iter().partition(|root| known.contains(root));
    if added.is_empty() || shared.is_empty() {
        return None;
    }
    let blocks = added.into_iter().map(|certificate| pem::encode(&pem::Pem::new("CERTIFICATE", certificate.clone())));
    Some(std::iter::once(format!("{}\n", own.trim_end())).chain(blocks).collect())
}

/// Reads certificates in their order: who signs comes first. `None` if not everything is one: half a file says nothing.
fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
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

    #[test]
    fn a_certificate_is_asked_for_until_it_comes_with_what_the_file_says() {
        let (old, new, foreign) = (root(), root(), root());
        let (both, switched) = (format!("{old}{new}"), format!("{new}{old}"));
        let mut agreement = Agreement::default();
        let begin = Instant::now();
        let mut sought =
            |own: &str, file: &str, second| agreement.is_to_be_sought(own, file.as_bytes(), begin + Duration::from_secs(second));
        assert!(!sought(&old, &old, 0) && !sought(&old, &old, 100), "nothing has changed");
        assert!(!sought(&old, &foreign, 100) && !sought(&old, "", 100), "it is of another mesh, or empty");
        assert!(sought(&old, &both, 200), "the file has changed");
        // Whoever answered was behind.
        let asked = (201..=300).filter(|second| sought(&old, &both, *second)).collect::<Vec<_>>();
        assert_eq!(asked, [210, 230, 270]);
        assert!((301..=400).all(|second| !sought(&both, &both, second)), "they agree");
        assert!(sought(&both, &switched, 500));
        assert!(sought(&both, &switched, 510), "another root signs");
        assert!(!sought(&switched, &switched, 520));
        assert!(sought(&switched, &new, 600));
        assert!(sought(&switched, &new, 610), "a root is to go");
        assert!((611..=700).all(|second| !sought(&new, &new, second)));
    }

    #[test]
    fn what_the_first_file_says_beyond_the_first_answer_is_asked_for() {
        let (old, new) = (root(), root());
        let both = format!("{old}{new}");
        let begin = Instant::now();
        for (own, file, expected) in [(&old, &both, true), (&both, &old, false)] {
            let mut agreement = Agreement::default();
            assert!(!agreement.is_to_be_sought(own, file.as_bytes(), begin));
            assert_eq!(agreement.is_to_be_sought(own, file.as_bytes(), begin + AGAIN_AFTER), expected);
        }
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

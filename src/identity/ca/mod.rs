//! The signing certificate: loaded from a folder or a Secret, or self-signed; checked, used, and replaced while we run.

mod expiry;
mod issue;
mod load;
mod load_error;
mod revocation;
mod revocation_error;
mod root_keys;
mod self_signed;
mod state_folder;
mod watch;

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rcgen::{Issuer, KeyPair};
use smol_str::SmolStr;
use tokio::sync::watch as channel;

pub use expiry::{Expiry, Nearness, watch_expiry};
pub(in crate::identity) use issue::identity_uri;
pub use issue::{CertificateHolder, IssueError, IssuePolicy, Issued, ServingRequest};
pub use load::{NEXT_CERTIFICATE, holds_ca, load, load_entries, load_self_signed, root_above};
pub use load_error::LoadError;
pub use revocation::{RevocationLists, split_lists};
pub use revocation_error::{REVOCATION_FILE, RevocationError};
pub use root_keys::find_root_keys;
pub use self_signed::{SelfSigned, SelfSignedError};
pub use state_folder::{StateError, StateFolder};
pub use watch::watch;

pub use crate::identity::serial::Serial;
use crate::{
    api::trust_bundle::TrustBundle,
    identity::{certificate::Certificate, key::PrivateKey, metrics::CaMetrics, root_id::RootId},
};

/// A signing certificate that passed every check of [`load`], with its key and the certificates up to the root.
pub struct SigningCa {
    issuer: Issuer<'static, KeyPair>,
    path: Vec<Certificate>,
    roots: Vec<Certificate>,
    root: Certificate,
    above_leaf: Vec<String>,
    root_bundle: String,
    root_id: RootId,
    root_ids: Arc<BTreeSet<RootId>>,
    passed_over: Vec<String>,
    rotates: bool,
    revocation: Option<Arc<RevocationLists>>,
    unusable_revocation: Option<RevocationError>,
}

/// The CA in use, shared. A newer one under the same root replaces it without a restart.
pub struct CaHandle {
    current: ArcSwap<SigningCa>,
    changed: channel::Sender<u64>,
    /// PEM of the lists of revoked certificates; empty: there are none.
    revocation: channel::Sender<Arc<str>>,
}

/// What became of an offered CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferOutcome {
    /// It is in use already.
    Unchanged,
    /// It signs from now on.
    Accepted,
}

/// Why an offered CA is not taken over: proxies would trust nobody after the change.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// It has another root than proxies trust.
    #[error(
        "the new CA has another root ({offered}) than the one in use ({current}); it is not taken over: `istiod-lite ca rotate` goes \
         from one offline root to another, and anything else needs a restart"
    )]
    OtherRoot {
        /// The roots in use.
        current: String,
        /// The new ones.
        offered: String,
    },
    /// Proxies have lists of revoked certificates, and none of the new CA.
    #[error("proxies have lists of revoked certificates, and would refuse what the new CA signs: {0}")]
    NotCovered(RevocationError),
}

// === impl SigningCa ===

impl SigningCa {
    fn new(key: PrivateKey, path: Vec<Certificate>, roots: Vec<Certificate>, root: Certificate) -> Result<Self, rcgen::Error> {
        let signing = path.first().unwrap_or(&root);
        let issuer = Issuer::from_ca_cert_der(signing.der(), key.into_pair())?;
        let root_bundle: String = roots.iter().map(Certificate::pem).collect();
        let above_leaf = path.iter().map(Certificate::pem).chain([root_bundle.clone()]).collect();
        let (root_id, root_ids) = (RootId::of(&root), Arc::new(roots.iter().map(RootId::of).collect()));
        Ok(Self {
            issuer,
            path,
            roots,
            root,
            above_leaf,
            root_bundle,
            root_id,
            root_ids,
            passed_over: Vec::new(),
            rotates: false,
            revocation: None,
            unusable_revocation: None,
        })
    }

    /// Returns the signing certificate: the first intermediate, or a self-signed root.
    pub fn certificate(&self) -> &Certificate {
        self.path.first().unwrap_or(&self.root)
    }

    /// Returns the certificates from the signing one upwards, without the root; none if the root itself signs.
    pub fn path(&self) -> &[Certificate] {
        &self.path
    }

    /// Returns every root that callers and proxies trust.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// Returns the root that the signing certificate chains to.
    pub fn root(&self) -> &Certificate {
        &self.root
    }

    /// Returns the identity of the root that the signing certificate chains to.
    pub fn root_id(&self) -> &RootId {
        &self.root_id
    }

    /// Returns the identities of all roots that callers and proxies trust.
    pub fn root_ids(&self) -> &Arc<BTreeSet<RootId>> {
        &self.root_ids
    }

    /// Returns the whole root bundle as PEM, ending in a newline.
    pub fn root_bundle(&self) -> &str {
        &self.root_bundle
    }

    /// Returns whom proxies trust because of it.
    pub fn trust_bundle(&self) -> TrustBundle {
        let revoked = self.revocation.as_ref().map(|lists| SmolStr::new(lists.pem())).unwrap_or_default();
        TrustBundle { roots: Some(SmolStr::new(&self.root_bundle)), revoked, trouble: None }
    }

    /// Returns what is wrong with certificates of the root file that cannot be read, and that nobody is told to trust.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// Returns the lists of revoked certificates in use.
    pub fn revocation(&self) -> Option<&Arc<RevocationLists>> {
        self.revocation.as_ref()
    }

    /// Returns why the lists beside this CA are of no use; those before them stay in use.
    pub fn unusable_revocation(&self) -> Option<&RevocationError> {
        self.unusable_revocation.as_ref()
    }

    /// Returns whether nobody would notice the change from one to the other.
    fn says_the_same(&self, other: &Self) -> bool {
        let certificates = (&self.path, &self.roots, &self.passed_over) == (&other.path, &other.roots, &other.passed_over);
        certificates && self.revocation == other.revocation
    }

    /// Reads the lists beside this CA.
    fn read_revocation(&mut self, text: Result<&str, RevocationError>, now: Timestamp) {
        match text.and_then(|text| RevocationLists::read(text, &self.authorities(), now)) {
            Ok(lists) => self.revocation = Some(Arc::new(lists)),
            Err(error) => self.unusable_revocation = Some(error),
        }
    }

    /// Returns the certificates from the signing one up to the root.
    fn authorities(&self) -> Vec<&Certificate> {
        self.path.iter().chain([&self.root]).collect()
    }

    /// Logs the certificates, as istiod does (contract §4.4), and those that were passed over.
    pub fn log_certificates(&self) {
        self.path.iter().chain(&self.roots).for_each(Certificate::log);
        self.log_passed_over();
    }

    fn log_passed_over(&self) {
        for why in &self.passed_over {
            tracing::warn!("a root certificate is passed over, and is trusted by nobody: {why}");
        }
    }

    /// Shows in metrics when the certificates expire, and how many roots were passed over.
    pub fn record(&self, metrics: &CaMetrics) {
        metrics.set_certificates(self.root.not_after, self.not_after(), self.passed_over.len());
        let lists = self.revocation.as_deref();
        metrics.set_revocation(lists.map_or(0, RevocationLists::count), lists.and_then(RevocationLists::not_after));
    }

    /// Returns when the first certificate of the chain expires: nothing that is issued lives longer.
    pub fn not_after(&self) -> Timestamp {
        self.path.iter().map(|certificate| certificate.not_after).fold(self.root.not_after, Timestamp::min)
    }
}

impl std::fmt::Debug for SigningCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningCa")
            .field("subject", &self.certificate().subject)
            .field("serial", &self.certificate().serial)
            .field("root", &self.root.subject)
            .finish_non_exhaustive()
    }
}

// === impl CaHandle ===

impl CaHandle {
    /// Returns a handle to this CA.
    pub fn new(ca: SigningCa) -> Arc<Self> {
        let revocation = channel::Sender::new(revocation_pem(&ca));
        Arc::new(Self { current: ArcSwap::from_pointee(ca), changed: channel::Sender::new(0), revocation })
    }

    /// Returns the CA in use.
    pub fn current(&self) -> Arc<SigningCa> {
        self.current.load_full()
    }

    /// Takes a newer CA over at once if its roots are the same (contract §4.4), or if it is the next step of a rotation.
    ///
    /// Lists of revoked certificates stay in use until others come: without them, who was refused would be let in again.
    ///
    /// # Errors
    /// When a root is another one, or proxies would refuse what it signs; the CA in use stays.
    pub fn offer(&self, mut offered: SigningCa) -> Result<OfferOutcome, OfferError> {
        let current = self.current.load();
        if current.root_ids != offered.root_ids && !is_step(&current, &offered) {
            return Err(OfferError::OtherRoot { current: describe(&current.roots), offered: describe(&offered.roots) });
        }
        offered.revocation = RevocationLists::joined(offered.revocation.take(), current.revocation.as_ref());
        if let Some(lists) = &offered.revocation {
            lists.cover(&offered.authorities()).map_err(OfferError::NotCovered)?;
        }
        if current.says_the_same(&offered) {
            if current.rotates != offered.rotates {
                self.current.store(Arc::new(offered));
            }
            return Ok(OfferOutcome::Unchanged);
        }
        let revocation = revocation_pem(&offered);
        if current.revocation != offered.revocation {
            let revoked = offered.revocation.as_ref().map_or(0, |lists| lists.count());
            tracing::info!(revoked, "Istiod has detected the newly added CRL file and updated its CRL accordingly");
        }
        self.current.store(Arc::new(offered));
        self.revocation.send_if_modified(|known| std::mem::replace(known, Arc::clone(&revocation)) != revocation);
        self.changed.send_modify(|generation| *generation += 1);
        Ok(OfferOutcome::Accepted)
    }

    /// Returns a receiver that changes whenever another CA was taken over.
    pub fn subscribe(&self) -> channel::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns the PEM of the lists of revoked certificates, now and whenever they change; it is empty while there are none.
    pub fn revocation(&self) -> channel::Receiver<Arc<str>> {
        self.revocation.subscribe()
    }
}

impl std::fmt::Debug for CaHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CaHandle").field(&self.current.load()).finish()
    }
}

fn revocation_pem(ca: &SigningCa) -> Arc<str> {
    ca.revocation.as_ref().map_or_else(|| "".into(), |lists| Arc::clone(lists.pem()))
}

/// Returns whether one follows the other in a rotation: the root that signs before is trusted after, and the other way round.
fn is_step(current: &SigningCa, offered: &SigningCa) -> bool {
    let rotates = current.rotates || offered.rotates;
    rotates && current.root_ids.contains(&offered.root_id) && offered.root_ids.contains(&current.root_id)
}

fn describe(roots: &[Certificate]) -> String {
    roots.iter().map(|root| format!("{} serial {}", root.subject, root.serial)).collect::<Vec<_>>().join("; ")
}

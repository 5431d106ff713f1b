//! A serving certificate that an external signer signs (`PILOT_CERT_PROVIDER=k8s.io/<signer>`), as istiod has it.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{info, warn};

use super::renewal_time;
use crate::{
    backoff::{Backoff, random_unit},
    identity::{
        Clock,
        key::{KeyError, KeyType, PrivateKey},
        registration::{RegistrationAuthority, RegistrationError, SignerName, SignerRoots},
    },
};

/// How often to look whether the certificate must be replaced.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Who signs for whom.
pub struct SigningOrder {
    /// Who hands our requests over, and checks the answers.
    pub authority: Arc<RegistrationAuthority>,
    /// The signer.
    pub signer: SignerName,
    /// The names that the certificate is for.
    pub dns_names: Vec<String>,
    /// How long it is to live.
    pub lifetime: Duration,
    /// Returns the current time.
    pub clock: Clock,
}

/// A serving certificate that somebody signed for us.
pub struct SignedServing {
    /// The key, as PKCS#8.
    pub(super) key: Vec<u8>,
    /// The leaf, and what is between it and the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// PEM of the roots by which clients verify it.
    pub(super) roots: Arc<str>,
    renewal: Timestamp,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
}

// === impl SigningOrder ===

impl SigningOrder {
    /// Returns the first certificate. A signer that is away is waited for.
    pub async fn first(&self) -> SignedServing {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            match self.obtain().await {
                Ok(serving) => return serving,
                Err(error) => warn!(%error, "no certificate for our ports yet; trying again"),
            }
            tokio::time::sleep(backoff.next(random_unit())).await;
        }
    }

    /// Replaces the certificate before it expires, and when the signer's roots differ, for ever. While there is none, the one in use stays.
    pub async fn keep(self, mut roots: watch::Receiver<Arc<SignerRoots>>, current: watch::Sender<Arc<SignedServing>>) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            tokio::select! {
                Ok(()) = roots.changed() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            let known = roots.borrow_and_update().bundle_of(&self.signer);
            let is_due = {
                let current = current.borrow();
                (self.clock)() >= current.renewal || *current.roots != *known
            };
            if !is_due || known.is_empty() {
                continue;
            }
            match self.obtain().await {
                Ok(serving) => {
                    backoff.reset();
                    current.send_replace(Arc::new(serving));
                }
                Err(error) => {
                    warn!(%error, "serving goes on with the certificate in use");
                    tokio::time::sleep(backoff.next(random_unit())).await;
                }
            }
        }
    }

    async fn obtain(&self) -> Result<SignedServing, OrderError> {
        let key = PrivateKey::generate(KeyType::P256)?;
        let signed = self.authority.issue_serving(&self.signer, key.pair(), &self.dns_names, self.lifetime).await?;
        let leaf = signed.leaf();
        info!(signer = %signed.signer, serial = leaf.serial, not_after = %leaf.not_after, "certificate for our ports received");
        Ok(SignedServing {
            key: key.to_der(),
            chain: [leaf].into_iter().chain(&signed.above).map(|certificate| certificate.der().clone()).collect(),
            renewal: renewal_time((self.clock)(), leaf.not_after),
            roots: signed.roots.into(),
        })
    }
}

impl fmt::Debug for SignedServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedServing").field("renewal", &self.renewal).finish_non_exhaustive()
    }
}

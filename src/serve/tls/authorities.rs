//! Whose certificates callers may show: those of our own CA, and those of external signers.

use std::{future::pending, sync::Arc};

use smol_str::SmolStr;
use tokio::sync::watch;

use crate::{
    api::trust_bundle::TrustBundle,
    identity::{
        ca::{CaHandle, SigningCa},
        certificate::Certificate,
        registration::SignerRoots,
    },
};

/// Who issues certificates in this mesh.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    /// Our own CA; `None`: others sign everything, our own certificate included.
    pub own: Option<Arc<CaHandle>>,
    /// The roots of external signers.
    pub external: Option<watch::Receiver<Arc<SignerRoots>>>,
}

/// Tells when any of them differs.
pub(in crate::serve) struct Changes {
    own: Option<watch::Receiver<u64>>,
    external: Option<watch::Receiver<Arc<SignerRoots>>>,
}

// === impl Authorities ===

impl Authorities {
    /// Returns our own CA as it is now.
    pub(super) fn own(&self) -> Option<Arc<SigningCa>> {
        self.own.as_ref().map(|own| own.current())
    }

    /// Returns the roots to which callers' certificates may chain.
    pub(super) fn roots(&self) -> Vec<Certificate> {
        let own = self.own().map(|ca| ca.roots().to_vec()).unwrap_or_default();
        let external = self.external.as_ref().map(|roots| roots.borrow().all()).unwrap_or_default();
        own.into_iter().chain(external).collect()
    }

    /// Returns whom proxies trust because of them.
    pub(in crate::serve) fn trust_bundle(&self) -> TrustBundle {
        let own = self.own().map(|ca| ca.trust_bundle()).unwrap_or_default();
        let external = self.external.as_ref().map(|roots| roots.borrow().all()).unwrap_or_default();
        let roots = own.roots.iter().map(ToString::to_string).chain(external.iter().map(Certificate::pem)).collect::<String>();
        TrustBundle { roots: Some(roots.into()).filter(|roots: &SmolStr| !roots.is_empty()), ..own }
    }

    /// Returns what tells when any of them differs.
    pub(in crate::serve) fn changes(&self) -> Changes {
        Changes { own: self.own.as_ref().map(|own| own.subscribe()), external: self.external.clone() }
    }
}

impl From<Arc<CaHandle>> for Authorities {
    fn from(own: Arc<CaHandle>) -> Self {
        Self { own: Some(own), external: None }
    }
}

// === impl Changes ===

impl Changes {
    /// Waits for the next difference.
    pub(in crate::serve) async fn next(&mut self) {
        tokio::select! {
            () = changed(&mut self.own) => {}
            () = changed(&mut self.external) => {}
        }
    }
}

/// Waits for another value; for ever if none can come.
pub(super) async fn changed<T>(values: &mut Option<watch::Receiver<T>>) {
    let can_change = match values {
        Some(values) => values.changed().await.is_ok(),
        None => false,
    };
    if !can_change {
        pending::<()>().await;
    }
}

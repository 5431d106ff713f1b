//! Our side of the TLS handshake: a serving certificate that changes while we run, and the roots that clients must chain to.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    authorities::{Authorities, changed},
    error::TlsError,
    files::{FileTexts, ServingFiles},
    names::ServingNames,
    parameters::TlsParameters,
    renewal_time,
    signed::SignedServing,
};
use crate::identity::{
    Clock,
    ca::{IssueError, ServingRequest},
    certificate::Certificate,
    key::{KeyType, PrivateKey},
    serial::Serial,
};

/// How long a serving certificate lives; it is replaced when two thirds are over.
pub(in crate::serve) const SERVING_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often to look whether the serving certificate must be replaced.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Where our serving certificate comes from.
#[derive(Clone, Debug)]
pub enum ServingCertificate {
    /// Our own CA issues it, for these names.
    Ours(ServingNames),
    /// Somebody else issues it and keeps it in files.
    Files(ServingFiles),
    /// An external signer signs it; here is the newest.
    Signed(watch::Receiver<Arc<SignedServing>>),
}

/// Our side of the TLS handshake: the serving certificate, and the roots that client certificates must chain to.
pub struct TlsIdentity {
    current: ArcSwap<Current>,
    roots: watch::Sender<Arc<str>>,
    authorities: Authorities,
    certificate: ServingCertificate,
    protocol: TlsParameters,
    clock: Clock,
}

/// What handshakes use now.
struct Current {
    config: Arc<ServerConfig>,
    valid: Valid,
}

/// How long a serving certificate is used.
enum Valid {
    /// Until this time.
    Until(Timestamp),
    /// As long as its files hold these texts.
    While(FileTexts),
    /// Until whoever signs it gives another one.
    UntilReplaced,
}

impl TlsIdentity {
    /// Returns an identity with this certificate, which takes callers' certificates of `authorities`.
    ///
    /// # Errors
    /// When it cannot be issued, or its files cannot be read.
    pub fn new(
        authorities: impl Into<Authorities>,
        certificate: ServingCertificate,
        protocol: TlsParameters,
        clock: Clock,
    ) -> Result<Arc<Self>, TlsError> {
        let authorities = authorities.into();
        let (current, roots) = issue(&authorities, &certificate, &protocol, clock())?;
        let (current, roots) = (ArcSwap::from_pointee(current), watch::Sender::new(roots));
        Ok(Arc::new(Self { current, roots, authorities, certificate, protocol, clock }))
    }

    /// Returns what the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Returns the TLS versions and cipher suites.
    pub(in crate::serve) fn protocol(&self) -> &TlsParameters {
        &self.protocol
    }

    /// Returns the PEM of the roots by which clients verify us, now and whenever they change.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    /// Replaces the certificate: by a new one of the CA in use now, or by the one that the files or the signer hold now.
    ///
    /// # Errors
    /// As for [`Self::new`]; the certificate in use stays.
    pub fn reissue(&self) -> Result<(), TlsError> {
        let (current, roots) = issue(&self.authorities, &self.certificate, &self.protocol, (self.clock)())?;
        self.current.store(Arc::new(current));
        self.roots.send_if_modified(|known| {
            let changed = *known != roots;
            *known = roots;
            changed
        });
        Ok(())
    }

    /// Runs until `shutdown`: replaces the certificate when an authority or the files were replaced, and before it expires.
    pub async fn keep_fresh(self: Arc<Self>, shutdown: CancellationToken) {
        let (mut changes, mut signed) = (self.authorities.changes(), self.certificate.signed());
        let mut logged = String::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = changes.next() => {}
                () = changed(&mut signed) => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {
                    if !self.is_due() {
                        continue;
                    }
                }
            }
            match self.reissue() {
                Ok(()) => {
                    logged.clear();
                    info!("Istiod certificates are reloaded");
                }
                // It is tried again each second, and logged once.
                Err(error) if error.to_string() == logged => {}
                Err(error) => {
                    logged = error.to_string();
                    error!(%error, "serving goes on with the certificate in use");
                }
            }
        }
    }

    fn is_due(&self) -> bool {
        match (&self.current.load().valid, &self.certificate) {
            (Valid::Until(time), _) => (self.clock)() >= *time,
            // Files that cannot be read count as changed.
            (Valid::While(texts), ServingCertificate::Files(files)) => files.texts().ok().as_ref() != Some(texts),
            _ => false,
        }
    }
}

// === impl ServingCertificate ===

impl ServingCertificate {
    fn signed(&self) -> Option<watch::Receiver<Arc<SignedServing>>> {
        match self {
            Self::Signed(newest) => Some(newest.clone()),
            Self::Ours(_) | Self::Files(_) => None,
        }
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Returns what handshakes use from now on, and the PEM of the roots by which clients verify it.
fn issue(
    authorities: &Authorities,
    certificate: &ServingCertificate,
    protocol: &TlsParameters,
    now: Timestamp,
) -> Result<(Current, Arc<str>), TlsError> {
    match certificate {
        ServingCertificate::Ours(names) => {
            let (ca, key) = (authorities.own().ok_or(TlsError::NoAuthority)?, PrivateKey::generate(KeyType::P256)?);
            let request = ServingRequest { dns_names: &names.dns_names, addresses: &names.addresses, ttl: SERVING_TTL };
            let issued = ca.issue_serving(key.pair(), &request, now, Serial::random().map_err(IssueError::from)?)?;
            let chain = [issued.leaf_der().clone()].into_iter().chain(ca.path().iter().map(|certificate| certificate.der().clone()));
            let config = server_config(authorities, chain.collect(), pkcs8(key.to_der()), protocol)?;
            Ok((Current { config, valid: Valid::Until(renewal_time(now, issued.not_after)) }, ca.root_bundle().into()))
        }
        ServingCertificate::Files(files) => {
            let texts = files.texts()?;
            let identity = files.parse(&texts)?;
            let config = server_config(authorities, identity.chain, identity.key, protocol)?;
            Ok((Current { config, valid: Valid::While(texts) }, identity.roots))
        }
        ServingCertificate::Signed(newest) => {
            let serving = Arc::clone(&newest.borrow());
            let config = server_config(authorities, serving.chain.clone(), pkcs8(serving.key.clone()), protocol)?;
            Ok((Current { config, valid: Valid::UntilReplaced }, Arc::clone(&serving.roots)))
        }
    }
}

fn pkcs8(der: Vec<u8>) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))
}

fn server_config(
    authorities: &Authorities,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocol: &TlsParameters,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (provider, own) = (protocol.provider(), authorities.own());
    let lists = own.as_ref().and_then(|ca| ca.revocation());
    let verifier = WebPkiClientVerifier::builder_with_provider(root_store(&authorities.roots()).into(), provider.clone())
        .with_crls(lists.into_iter().flat_map(|lists| lists.der()))
        // Of a CA that signed before, or of another mesh, there may be no list.
        .allow_unknown_revocation_status()
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Verifier(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(protocol.versions())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session is not verified again: an expired or foreign client certificate would stay good.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn root_store(roots: &[Certificate]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().map(|root| root.der().clone()));
    store
}

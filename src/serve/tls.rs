//! Port 15012: TLS with a certificate that changes while we run, and callers that are proven.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, service::Routes, transport::server::TcpConnectInfo};
use tracing::{debug, error, info};

use super::{
    connection::{ConnectionOptions, accept, call, serve_connection},
    protocol::Protocol,
    serving_files::{ServingFiles, Texts},
};
use crate::{
    identity::{
        Clock,
        authenticate::{AuthenticationError, Authenticator, PeerCertificate},
        ca::{CaHandle, IssueError, Serial, ServingRequest, SigningCa},
        certificate::Certificate,
        key::{KeyError, KeyType, PrivateKey},
        metrics::CaMetrics,
    },
    mesh::model::SpiffeId,
    proto::auth::istio_certificate_service_server::SERVICE_NAME as CERTIFICATE_SERVICE,
};

/// How long a serving certificate lives; it is replaced when two thirds are over.
const SERVING_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often it is looked whether there is reason for another serving certificate.
const LOOK: Duration = Duration::from_secs(1);

/// Where our serving certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingCertificate {
    /// From our own CA, for these names.
    Ours(ServingNames),
    /// From somebody who keeps it in files.
    Files(ServingFiles),
}

/// What names our serving certificate carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// Our side of the TLS handshake: the serving certificate, and the roots that client certificates must chain to.
pub struct TlsIdentity {
    used: ArcSwap<Used>,
    roots: watch::Sender<Arc<str>>,
    ca: Arc<CaHandle>,
    certificate: ServingCertificate,
    protocol: Protocol,
    clock: Clock,
}

/// What handshakes use now.
struct Used {
    config: Arc<ServerConfig>,
    until: Until,
}

/// When a serving certificate is to be replaced.
enum Until {
    /// At this time.
    Time(Timestamp),
    /// When its files say something else.
    Texts(Texts),
}

/// The identity of a verified client certificate, as a request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(pub SpiffeId);

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No key.
    #[error("serving key: {0}")]
    Key(#[from] KeyError),
    /// The CA refused.
    #[error("serving certificate: {0}")]
    Issue(#[from] IssueError),
    /// A file is missing or wrong.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The TLS library refused.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// The roots cannot be used.
    #[error("client certificate verification: {0}")]
    Verifier(String),
}

// === impl ServingNames ===

impl ServingNames {
    /// The names that istiod answers to in a namespace (contract §4.6).
    pub fn istiod(namespace: &str, revision: Option<&str>) -> Self {
        let mut hosts = vec!["istiod".to_owned(), "istiod-remote".to_owned(), "istio-pilot".to_owned()];
        hosts.extend(revision.filter(|revision| !matches!(*revision, "" | "default")).map(|revision| format!("istiod-{revision}")));
        Self { dns_names: hosts.into_iter().map(|host| format!("{host}.{namespace}.svc")).collect(), addresses: Vec::new() }
    }

    /// Also for clients on this machine.
    pub fn and_local(mut self) -> Self {
        self.dns_names.push("localhost".into());
        self.addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        self
    }

    /// Also this name or address (`ISTIOD_CUSTOM_HOST`, the discovery address).
    pub fn and(mut self, host: &str) -> Self {
        match host.parse() {
            Ok(address) if !self.addresses.contains(&address) => self.addresses.push(address),
            Err(_) if !self.dns_names.iter().any(|name| name == host) => self.dns_names.push(host.to_owned()),
            _ => {}
        }
        self
    }
}

// === impl TlsIdentity ===

impl TlsIdentity {
    /// Serves with certificates that our own CA issues for `names`.
    pub fn new(ca: Arc<CaHandle>, names: ServingNames, clock: Clock) -> Result<Arc<Self>, TlsError> {
        Self::with(ca, ServingCertificate::Ours(names), Protocol::default(), clock)
    }

    /// Serves with this certificate.
    pub fn with(ca: Arc<CaHandle>, certificate: ServingCertificate, protocol: Protocol, clock: Clock) -> Result<Arc<Self>, TlsError> {
        let (used, roots) = make(&ca.current(), &certificate, &protocol, clock())?;
        let (used, roots) = (ArcSwap::from_pointee(used), watch::Sender::new(roots));
        Ok(Arc::new(Self { used, roots, ca, certificate, protocol, clock }))
    }

    /// What the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.used.load().config)
    }

    /// Versions and cipher suites.
    pub(super) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// PEM of the roots by which clients verify us.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    /// A new certificate, from the CA in use now, or as the files have it now.
    pub fn reissue(&self) -> Result<(), TlsError> {
        let (used, roots) = make(&self.ca.current(), &self.certificate, &self.protocol, (self.clock)())?;
        self.used.store(Arc::new(used));
        self.roots.send_if_modified(|known| {
            let changed = *known != roots;
            *known = roots;
            changed
        });
        Ok(())
    }

    /// Runs until `shutdown`: reissues when the CA was replaced, and before the certificate expires; or when the files
    /// were.
    pub async fn keep_fresh(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changed = self.ca.subscribe();
        let mut said = String::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = changed.changed() => {}
                () = tokio::time::sleep(LOOK) => {
                    if !self.is_due() {
                        continue;
                    }
                }
            }
            match self.reissue() {
                Ok(()) => {
                    said.clear();
                    info!("Istiod certificates are reloaded");
                }
                // It is tried again each second, and said once.
                Err(error) if error.to_string() == said => {}
                Err(error) => {
                    said = error.to_string();
                    error!(%error, "serving goes on with the certificate in use");
                }
            }
        }
    }

    fn is_due(&self) -> bool {
        match (&self.used.load().until, &self.certificate) {
            (Until::Time(time), _) => (self.clock)() >= *time,
            // What cannot be read is other than what was.
            (Until::Texts(texts), ServingCertificate::Files(files)) => files.texts().ok().as_ref() != Some(texts),
            (Until::Texts(_), ServingCertificate::Ours(_)) => false,
        }
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Serves gRPC over TLS (15012) until `shutdown`, and returns when all connections have ended or their grace is over.
///
/// Each request reaches `routes` with the extensions [`Caller`](crate::mesh::model::Caller) (always a workload),
/// [`PeerIdentity`] (when a client certificate proved one) and `TcpConnectInfo`; who cannot be authenticated gets
/// `Unauthenticated` here, counted in `metrics` when a certificate was asked for.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<TlsIdentity>,
    routes: Routes,
    authenticator: Arc<Authenticator>,
    metrics: CaMetrics,
    options: ConnectionOptions,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let handshakes = Arc::new(Semaphore::new(options.max_handshakes));
    let gate = Arc::new(Gate { routes: routes.prepare(), authenticator, metrics });
    while let Some((stream, peer)) = accept(&listener, &shutdown).await {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { break };
        let (tls, gate, shutdown) = (tls.clone(), gate.clone(), shutdown.clone());
        tracker.spawn(async move {
            let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(peer) };
            let stream = match timeout(options.handshake_timeout, handshake(stream, &tls)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return info!(%peer, %error, "TLS handshake failed"),
                Err(_) => return info!(%peer, "TLS handshake timed out"),
            };
            drop(permit);
            let certificate = peer_certificate(&stream);
            let handler = move |request| gate.clone().admit(request, certificate.clone(), info.clone());
            serve_connection(stream, peer, handler, options, shutdown).await;
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn handshake(stream: TcpStream, tls: &TlsIdentity) -> std::io::Result<TlsStream<TcpStream>> {
    TlsAcceptor::from(tls.config()).accept(stream).await
}

fn peer_certificate(stream: &TlsStream<TcpStream>) -> Option<PeerCertificate> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    PeerCertificate::from_verified_der(leaf)
}

/// Between a connection and the services: lets only proven callers through.
struct Gate {
    routes: Routes,
    authenticator: Arc<Authenticator>,
    metrics: CaMetrics,
}

impl Gate {
    async fn admit(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        certificate: Option<PeerCertificate>,
        info: TcpConnectInfo,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        let caller = match self.authenticator.authenticate(request.headers(), certificate.as_ref()).await {
            Ok(caller) => caller,
            Err(error) => {
                info!(peer = ?info.remote_addr, path = request.uri().path(), %error, "caller not authenticated");
                return Ok(self.refuse(request.uri().path(), &error));
            }
        };
        debug!(?caller, path = request.uri().path(), "request");
        let extensions = request.extensions_mut();
        extensions.insert(caller);
        extensions.insert(info);
        if let Some(identity) = certificate.as_ref().and_then(PeerCertificate::identity) {
            extensions.insert(PeerIdentity(identity.clone()));
        }
        call(self.routes.clone(), request).await
    }

    fn refuse(&self, path: &str, why: &AuthenticationError) -> Response<Body> {
        let certificate = path.trim_start_matches('/').starts_with(CERTIFICATE_SERVICE);
        if certificate {
            self.metrics.requests.inc();
            self.metrics.authentication_failures.inc();
        }
        // Agents try again soon after this, and much later after the others.
        if why.is_temporary() {
            return Status::unavailable("the caller's token cannot be checked now").into_http();
        }
        if certificate {
            return Status::unauthenticated("request authenticate failure").into_http();
        }
        Status::unauthenticated("authentication failure").into_http()
    }
}

fn make(ca: &SigningCa, certificate: &ServingCertificate, protocol: &Protocol, now: Timestamp) -> Result<(Used, Arc<str>), TlsError> {
    match certificate {
        ServingCertificate::Ours(names) => {
            let key = PrivateKey::generate(KeyType::P256)?;
            let request = ServingRequest { dns_names: &names.dns_names, addresses: &names.addresses, ttl: SERVING_TTL };
            let issued = ca.issue_serving(key.pair(), &request, now, Serial::random()?)?;
            let chain = [issued.leaf_der().clone()].into_iter().chain(ca.path().iter().map(|certificate| certificate.der().clone()));
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_der()));
            let config = server_config(ca, chain.collect(), key, protocol)?;
            Ok((Used { config, until: Until::Time(renewal_time(now, issued.not_after)) }, ca.root_bundle().into()))
        }
        ServingCertificate::Files(files) => {
            let texts = files.texts()?;
            let held = files.held(&texts)?;
            let config = server_config(ca, held.chain, held.key, protocol)?;
            Ok((Used { config, until: Until::Texts(texts) }, held.roots))
        }
    }
}

fn server_config(
    ca: &SigningCa,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocol: &Protocol,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = protocol.provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(root_store(ca.roots()).into(), provider.clone())
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

fn renewal_time(now: Timestamp, end: Timestamp) -> Timestamp {
    let lifetime = SignedDuration::from_secs(end.as_second() - now.as_second());
    now.checked_add(lifetime * 2 / 3).unwrap_or(end)
}

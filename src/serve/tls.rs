//! Port 15012: TLS with a certificate that changes while we run, and callers that are proven.

use std::{net::IpAddr, sync::Arc, time::Duration};

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
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, service::Routes, transport::server::TcpConnectInfo};
use tracing::{debug, error, info};

use super::connection::{ConnectionOptions, accept, call, serve_connection};
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
    config: ArcSwap<ServerConfig>,
    renewal: ArcSwap<Timestamp>,
    ca: Arc<CaHandle>,
    names: ServingNames,
    clock: Clock,
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
        let (config, renewal) = server_config(&ca.current(), &names, clock())?;
        let (config, renewal) = (ArcSwap::new(config), ArcSwap::from_pointee(renewal));
        Ok(Arc::new(Self { config, renewal, ca, names, clock }))
    }

    /// What the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// A new certificate, from the CA in use now.
    pub fn reissue(&self) -> Result<(), TlsError> {
        let (config, renewal) = server_config(&self.ca.current(), &self.names, (self.clock)())?;
        self.config.store(config);
        self.renewal.store(Arc::new(renewal));
        Ok(())
    }

    /// Runs until `shutdown`: reissues when the CA was replaced, and before the certificate expires.
    pub async fn keep_fresh(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changed = self.ca.subscribe();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = changed.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(30)) => {
                    if (self.clock)() < **self.renewal.load() {
                        continue;
                    }
                }
            }
            match self.reissue() {
                Ok(()) => info!("Istiod certificates are reloaded"),
                Err(error) => error!(%error, "serving goes on with the certificate in use"),
            }
        }
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("names", &self.names).finish_non_exhaustive()
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

fn server_config(ca: &SigningCa, names: &ServingNames, now: Timestamp) -> Result<(Arc<ServerConfig>, Timestamp), TlsError> {
    let key = PrivateKey::generate(KeyType::P256)?;
    let request = ServingRequest { dns_names: &names.dns_names, addresses: &names.addresses, ttl: SERVING_TTL };
    let issued = ca.issue_serving(key.pair(), &request, now, Serial::random()?)?;
    let renewal = renewal_time(now, issued.not_after);
    let chain: Vec<CertificateDer<'static>> =
        [issued.leaf_der().clone()].into_iter().chain(ca.path().iter().map(|certificate| certificate.der().clone())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(root_store(ca.roots()).into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Verifier(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session is not verified again: an expired or foreign client certificate would stay good.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), renewal))
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

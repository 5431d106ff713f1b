//! A control plane as small as can be: a CA that signs for one token, and ADS with one listener.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use envoy_types::pb::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    google::protobuf::Any,
};
use futures::{Stream, StreamExt};
use istiod_lite::proto::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

/// The only token that is accepted.
pub(crate) const TOKEN: &str = "the-workload-is-who-it-says";
/// The only caller that there is.
pub(crate) const SPIFFE_ID: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
/// The name in the control plane's certificate.
pub(crate) const NAME: &str = "istiod.istio-system.svc";

/// The CA, which outlives control planes.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What control planes serve and saw; shared by one that stops and the next.
pub(crate) struct Shared {
    pub(crate) authority: Authority,
    /// Lifetime of workload certificates.
    pub(crate) ttl: Duration,
    /// Resources by type URL.
    pub(crate) resources: Mutex<BTreeMap<String, Vec<(String, Any)>>>,
    /// PEM of roots that proxies trust beside the authority's.
    pub(crate) other_roots: Mutex<String>,
    pub(crate) issued: AtomicU64,
    pub(crate) streams: AtomicU64,
    /// Whether Envoy may refuse what it is served, by delta.
    pub(crate) may_be_refused: AtomicBool,
}

/// A running control plane; dropping it cuts every connection.
pub(crate) struct ControlPlane {
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service(Arc<Shared>);

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        // Roots of one name that certificates do not tell apart by key would hide each other.
        static ROOTS: AtomicU64 = AtomicU64::new(1);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("root {} of the test", ROOTS.fetch_add(1, Ordering::SeqCst)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    pub(crate) fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Returns a certificate and its key for that name, a DNS name or a URI.
    pub(crate) fn identity(&self, name: SanType) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    fn sign(&self, csr: &str, ttl: Duration) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let now = time::OffsetDateTime::now_utc();
        request.params.not_before = now - Duration::from_secs(120);
        request.params.not_after = now + ttl;
        request.params.subject_alt_names = vec![SanType::URI(SPIFFE_ID.try_into()?)];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(ttl: Duration) -> Result<Arc<Self>> {
        let authority = Authority::new()?;
        Ok(Arc::new(Self {
            authority,
            ttl,
            resources: Mutex::default(),
            other_roots: Mutex::default(),
            issued: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            may_be_refused: AtomicBool::new(false),
        }))
    }

    pub(crate) fn serve_resource(&self, name: &str, resource: Any) {
        self.serve_resources(vec![(name.to_owned(), resource)]);
    }

    /// Replaces all resources of the type.
    pub(crate) fn serve_resources(&self, resources: Vec<(String, Any)>) {
        let type_url = resources[0].1.type_url.clone();
        self.resources.lock().insert(type_url, resources);
    }

    fn of_type(&self, type_url: &str) -> Vec<(String, Any)> {
        self.resources.lock().get(type_url).cloned().unwrap_or_default()
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    pub(crate) fn start(shared: &Arc<Shared>, address: SocketAddr) -> Result<Self> {
        let (certificate, key) = shared.authority.identity(SanType::DnsName(NAME.try_into()?))?;
        let listener = bind(address).with_context(|| format!("control plane on {address}"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        listener.set_nonblocking(true)?;
        let inside = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(shared.authority.root_pem()))
            .client_auth_optional(true);
        let service = Service(shared.clone());
        let server = Server::builder()
            .tls_config(tls)?
            .add_service(IstioCertificateServiceServer::new(service.clone()))
            .add_service(AggregatedDiscoveryServiceServer::new(service))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        runtime.spawn(server);
        drop(inside);
        Ok(Self { runtime: Some(runtime) })
    }
}

/// Binds the port again and again, since the control plane before this one lets go of its port in the background.
fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::net::TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => sleep(Duration::from_millis(10)),
            bound => return bound,
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === impl Service ===

fn authenticated<T>(request: &Request<T>) -> Result<(), Status> {
    let header = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok());
    let by_certificate = request.peer_certs().is_some_and(|chain| !chain.is_empty());
    if header("authorization") != Some(&format!("Bearer {TOKEN}")) && !by_certificate {
        return Err(Status::unauthenticated("request authenticate failure"));
    }
    if header("clusterid") != Some("Kubernetes") {
        return Err(Status::invalid_argument("no clusterid"));
    }
    Ok(())
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        authenticated(&request)?;
        let Service(shared) = self;
        let leaf =
            shared.authority.sign(&request.get_ref().csr, shared.ttl).map_err(|error| Status::invalid_argument(error.to_string()))?;
        shared.issued.fetch_add(1, Ordering::SeqCst);
        let roots = shared.authority.root_pem() + &shared.other_roots.lock();
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf, roots] }))
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers the requests that ask; those with a nonce acknowledge.
fn answers<Q, A>(requests: Streaming<Q>, answer: impl Fn(Q) -> Option<A> + Send + 'static) -> Responses<A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    Box::pin(requests.filter_map(move |request| std::future::ready(request.map(&answer).transpose())))
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        authenticated(&request)?;
        let Service(shared) = self.clone();
        shared.streams.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(answers(request.into_inner(), move |request: DiscoveryRequest| {
            assert!(request.error_detail.is_none(), "refused: {:?}", request.error_detail);
            request.response_nonce.is_empty().then(|| DiscoveryResponse {
                version_info: "1".to_owned(),
                nonce: "1".to_owned(),
                resources: shared.of_type(&request.type_url).into_iter().map(|(_, resource)| resource).collect(),
                type_url: request.type_url,
                ..Default::default()
            })
        })))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        authenticated(&request)?;
        let Service(shared) = self.clone();
        shared.streams.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(answers(request.into_inner(), move |request: DeltaDiscoveryRequest| {
            let expected = shared.may_be_refused.load(Ordering::SeqCst);
            assert!(expected || request.error_detail.is_none(), "refused: {:?}", request.error_detail);
            request.response_nonce.is_empty().then(|| DeltaDiscoveryResponse {
                nonce: "1".to_owned(),
                resources: shared.of_type(&request.type_url).into_iter().map(resource).collect(),
                type_url: request.type_url,
                ..Default::default()
            })
        })))
    }
}

fn resource((name, resource): (String, Any)) -> Resource {
    let version = format!("{:x}", xxhash_rust::xxh3::xxh3_64(&resource.value));
    Resource { name, version, resource: Some(resource), ..Default::default() }
}

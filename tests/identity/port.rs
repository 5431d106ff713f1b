//! The exchange of agent and control plane, through a real socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use istiod_lite::{
    identity::{
        authenticate::{Authenticator, KeySetVerifier},
        ca::{CaHandle, IssuePolicy, watch},
        ceremony,
        certificate::Certificate as Leaf,
        inventory::Inventory,
        key::{KeyType, PrivateKey},
        local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer, TokenRequest},
        metrics::CaMetrics,
        proof::Proof,
        service::CertificateService,
        system_clock,
    },
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    serve::{
        connection::{ConnectionOptions, serve_plain},
        connections::Connections,
        secure_grpc::SecureGrpc,
        tls::{ServingCertificate, ServingNames, TlsIdentity, TlsParameters},
    },
};
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    service::Routes,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use super::fixture::{Authority, greedy_request, reviews};

/// A connection, encrypted or not.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connection for S {}

struct ControlPlane {
    address: SocketAddr,
    authority: Authority,
    issuer: LocalIssuer,
    ca: Arc<CaHandle>,
    tls: Arc<TlsIdentity>,
    metrics: CaMetrics,
    inventory: Arc<Inventory>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl ControlPlane {
    async fn start() -> Self {
        Self::with(ConnectionOptions { grace: Duration::from_millis(300), ..Default::default() }).await
    }

    async fn with(options: ConnectionOptions) -> Self {
        let (authority, issuer) = (Authority::new(), LocalIssuer::generate(DEFAULT_ISSUER).unwrap());
        authority.write("jwks.json", &issuer.key_set());
        let verifier =
            KeySetVerifier::open(&authority.path().join("jwks.json"), DEFAULT_ISSUER, &[DEFAULT_AUDIENCE.into()], "cluster.local");
        let ca = CaHandle::new(authority.load().unwrap());
        let authenticator =
            Authenticator::new("cluster.local", vec![Arc::new(verifier.unwrap())], system_clock()).with_revocation(ca.clone());
        let names = ServingCertificate::Ours(ServingNames::istiod("istio-system", None).and_local());
        let tls = TlsIdentity::new(ca.clone(), names, TlsParameters::default(), system_clock()).unwrap();
        let (metrics, shutdown, inventory) = (CaMetrics::default(), CancellationToken::new(), Arc::<Inventory>::default());
        let service = CertificateService::new(ca.clone(), IssuePolicy::default(), system_clock(), metrics.clone(), inventory.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Routes::new(service.into_server());
        let (tls_used, metrics_used) = (tls.clone(), metrics.clone());
        let serving = tokio::spawn(
            SecureGrpc {
                tls: tls_used,
                routes,
                authenticator: authenticator.into(),
                metrics: metrics_used,
                options,
                connections: Connections::default(),
            }
            .serve(listener, shutdown.clone()),
        );
        Self { address, authority, issuer, ca, tls, metrics, inventory, shutdown, serving }
    }

    fn client_tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.root.pem())).domain_name("istiod.istio-system.svc")
    }

    async fn connect(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        Channel::from_shared(format!("https://{}", self.address)).unwrap().tls_config(tls).unwrap().connect().await
    }

    async fn encrypted(&self) -> Box<dyn Connection> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.root.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = "istiod.istio-system.svc".try_into().unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }

    fn token(&self) -> String {
        let (audience, ttl) = (DEFAULT_AUDIENCE, Duration::from_secs(600));
        let request = TokenRequest { namespace: "shop", service_account: "reviews", audience, ttl };
        self.issuer.token(&request, Timestamp::now()).unwrap()
    }
}

async fn ask(channel: Channel, token: Option<&str>, csr: &str) -> Result<Vec<String>, Status> {
    let mut request = Request::new(IstioCertificateRequest { csr: csr.into(), validity_duration: 3600, metadata: None });
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    Ok(IstioCertificateServiceClient::new(channel).create_certificate(request).await?.into_inner().cert_chain)
}

fn leaf(chain: &[String]) -> Leaf {
    Leaf::all_from_pem(&chain[0]).unwrap().remove(0)
}

#[tokio::test]
async fn a_certificate_for_a_token_and_the_next_for_that_certificate() {
    let plane = ControlPlane::start().await;
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let first = ask(channel, Some(&plane.token()), &greedy_request(&key)).await.unwrap();
    assert_eq!(leaf(&first).spiffe_id(), Some(reviews()));
    assert_eq!(first.last().unwrap(), &plane.authority.root.pem());

    let identity = Identity::from_pem(first[..2].concat(), key.to_pem());
    let next_key = PrivateKey::generate(KeyType::Rsa2048).unwrap();
    let channel = plane.connect(plane.client_tls().identity(identity)).await.unwrap();
    let second = ask(channel, None, &greedy_request(&next_key)).await.unwrap();
    assert_eq!(leaf(&second).spiffe_id(), Some(reviews()));
    assert_eq!(leaf(&second).public_key, next_key.public_key());
    assert_eq!((plane.metrics.requests.get(), plane.metrics.issued.get()), (2, 2));

    // The inventory knows both, as the certificates themselves say.
    let listed = plane.inventory.list(Timestamp::now()).issuances;
    let facts: Vec<_> = listed.iter().map(|issuance| (issuance.serial.to_string(), issuance.not_after.as_second())).collect();
    let issued = [&second, &first].map(|chain| (leaf(chain).serial, leaf(chain).not_after.as_second()));
    assert_eq!(facts, issued, "the newest first");
    assert_eq!([listed[0].proof, listed[1].proof], [Proof::Certificate, Proof::LocalToken]);
    assert!(listed.iter().all(|issuance| issuance.identity == reviews() && issuance.caller == reviews()));
}

#[tokio::test]
async fn who_proves_nothing_is_unauthenticated() {
    let plane = ControlPlane::start().await;
    let csr = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let forger = LocalIssuer::generate(DEFAULT_ISSUER).unwrap();
    let request = TokenRequest { namespace: "shop", service_account: "reviews", audience: DEFAULT_AUDIENCE, ttl: Duration::from_secs(600) };
    let forged = forger.token(&request, Timestamp::now()).unwrap();
    let hour_ago = Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let expired = plane.issuer.token(&request, hour_ago).unwrap();
    for token in [None, Some(forged.as_str()), Some(expired.as_str()), Some("x")] {
        let status = ask(channel.clone(), token, &csr).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "request authenticate failure"));
    }
    assert_eq!((plane.metrics.authentication_failures.get(), plane.metrics.issued.get()), (4, 0));

    // The connection is as good as before.
    ask(channel, Some(&plane.token()), &csr).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_of_another_root_ends_the_handshake() {
    let (plane, other) = (ControlPlane::start().await, Authority::new());
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let csr = greedy_request(&key);
    let issued = other.load().unwrap().issue(&csr, &reviews(), 0, &Default::default(), Timestamp::now(), super::fixture::serial());
    let identity = Identity::from_pem(issued.unwrap().into_chain()[..2].concat(), key.to_pem());
    // With TLS 1.3 a client hears of it at its first read only.
    if let Ok(channel) = plane.connect(plane.client_tls().identity(identity)).await {
        let refused = ask(channel, Some(&plane.token()), &csr).await.unwrap_err();
        assert_ne!(refused.code(), Code::Ok, "{refused}");
    }
    assert_eq!(plane.metrics.issued.get(), 0);
}

#[tokio::test]
async fn bad_requests_of_known_callers_say_why() {
    let plane = ControlPlane::start().await;
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let status = ask(channel.clone(), Some(&plane.token()), "nonsense").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut request = Request::new(IstioCertificateRequest {
        csr: greedy_request(&PrivateKey::generate(KeyType::P256).unwrap()),
        validity_duration: 91 * 86_400,
        metadata: None,
    });
    request.metadata_mut().insert("authorization", format!("Bearer {}", plane.token()).parse().unwrap());
    let status = IstioCertificateServiceClient::new(channel).create_certificate(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(plane.metrics.csr_parsing_errors.get(), 1);
}

#[tokio::test]
async fn nobody_signs_on_the_plaintext_port() {
    let ca = CaHandle::new(Authority::new().load().unwrap());
    let service = CertificateService::new(ca, IssuePolicy::default(), system_clock(), CaMetrics::default(), Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving = tokio::spawn(serve_plain(
        listener,
        Routes::new(service.into_server()),
        ConnectionOptions::default(),
        Connections::default(),
        shutdown.clone(),
    ));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let csr = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    let status = ask(channel, Some("anything"), &csr).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    shutdown.cancel();
    timeout(Duration::from_secs(5), serving).await.expect("drained").unwrap();
}

#[tokio::test]
async fn a_new_intermediate_signs_and_serves_without_restart() {
    let mut plane = ControlPlane::start().await;
    let shutdown = plane.shutdown.clone();
    tokio::spawn(watch(plane.authority.path().into(), plane.ca.clone(), system_clock(), plane.metrics.clone(), shutdown.clone()));
    tokio::spawn(plane.tls.clone().keep_fresh(shutdown));
    let (before, config) = (plane.ca.current().certificate().clone(), plane.tls.config());
    plane.authority = plane.authority.renew(KeyType::P384);
    let renewed = async {
        while plane.ca.current().certificate() == &before || Arc::ptr_eq(&config, &plane.tls.config()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), renewed).await.expect("the new intermediate is taken over");
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let chain = ask(channel, Some(&plane.token()), &greedy_request(&PrivateKey::generate(KeyType::P256).unwrap())).await.unwrap();
    assert_eq!(chain[1], plane.ca.current().certificate().pem());

    // A folder that becomes bad changes nothing.
    plane.authority.write("ca-key.pem", "broken");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(chain[1], plane.ca.current().certificate().pem());
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_costs_the_others_nothing() {
    let options =
        ConnectionOptions { handshake_timeout: Duration::from_millis(400), grace: Duration::from_millis(100), ..Default::default() };
    let plane = ControlPlane::with(options).await;
    let mut silent = TcpStream::connect(plane.address).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let csr = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    ask(channel, Some(&plane.token()), &csr).await.unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await.expect("dropped after the deadline").ok();
}

#[tokio::test]
async fn connections_that_are_quiet_for_long_are_closed() {
    let options = ConnectionOptions { idle: Duration::from_secs(1), grace: Duration::from_millis(100), ..Default::default() };
    let plane = ControlPlane::with(options).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (plain, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve_plain(listener, Routes::default(), options, Connections::default(), shutdown.clone()));
    for encrypted in [true, false] {
        let stream: Box<dyn Connection> =
            if encrypted { plane.encrypted().await } else { Box::new(TcpStream::connect(plain).await.unwrap()) };
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        // Whatever the answer is, a request was made.
        let mut ask = async || {
            let request = http::Request::post("https://istiod/grpc.health.v1.Health/Check").body(Empty::<bytes::Bytes>::new()).unwrap();
            sender.ready().await.unwrap_or_else(|error| panic!("encrypted: {encrypted}: {error}"));
            drop(sender.send_request(request).await.unwrap());
        };
        for _ in 0..15 {
            ask().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ask().await;
        assert!(!connection.is_finished());
        timeout(Duration::from_secs(60), connection).await.expect("closed when it is quiet").unwrap().unwrap();
    }
    shutdown.cancel();
}

#[tokio::test]
async fn connections_end_at_their_age_and_on_shutdown() {
    let options = ConnectionOptions { max_age: Duration::from_millis(300), grace: Duration::from_secs(2), ..Default::default() };
    let plane = ControlPlane::with(options).await;
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let csr = greedy_request(&PrivateKey::generate(KeyType::P256).unwrap());
    // The channel reconnects by itself when it was told to go; no request fails.
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    while tokio::time::Instant::now() < until {
        ask(channel.clone(), Some(&plane.token()), &csr).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    plane.shutdown.cancel();
    timeout(Duration::from_secs(5), plane.serving).await.expect("drained").unwrap();
    assert!(TcpStream::connect(plane.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_at_the_door_and_behind_it() {
    let plane = ControlPlane::start().await;
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let chain = ask(channel, Some(&plane.token()), &greedy_request(&key)).await.unwrap();
    let certificate = leaf(&chain);
    let client = plane.client_tls().identity(Identity::from_pem(chain[..2].concat(), key.to_pem()));
    let open = plane.connect(client.clone()).await.unwrap();
    ask(open.clone(), None, &greedy_request(&key)).await.unwrap();

    let (ca, now) = (plane.ca.current(), Timestamp::now());
    let signing = PrivateKey::from_pem(&plane.authority.key_pem).unwrap();
    let of_intermediate = ceremony::revocation_list(ca.certificate(), signing, &[certificate.serial_der].into(), 1, now).unwrap();
    let of_root = ceremony::revocation_list(ca.root(), plane.authority.root_key(), &Default::default(), 1, now).unwrap();
    plane.authority.write("ca-crl.pem", &(of_intermediate + &of_root));
    plane.ca.offer(plane.authority.load().unwrap()).unwrap();
    plane.tls.reissue().unwrap();

    // The connection was open before: who is behind it is nobody any more, whatever token comes along.
    for token in [None, Some(plane.token())] {
        let refused = ask(open.clone(), token.as_deref(), &greedy_request(&key)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    // With TLS 1.3 a client hears of it at its first read only.
    if let Ok(channel) = plane.connect(client).await {
        ask(channel, None, &greedy_request(&key)).await.unwrap_err();
    }
    // Others are as welcome as before.
    let channel = plane.connect(plane.client_tls()).await.unwrap();
    let other = PrivateKey::generate(KeyType::P256).unwrap();
    let chain = ask(channel, Some(&plane.token()), &greedy_request(&other)).await.unwrap();
    let client = plane.client_tls().identity(Identity::from_pem(chain[..2].concat(), other.to_pem()));
    ask(plane.connect(client).await.unwrap(), None, &greedy_request(&other)).await.unwrap();
}

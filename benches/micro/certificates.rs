//! Certificates: what issuing costs beside the bare cryptography, and the rate through port 15012.
//!
//! `bare` parses the request, verifies its signature, and signs 450 bytes (the size of a certificate's signed part) with the
//! CA's key: nothing less can issue a certificate. `issue` is ours, CSR in to chain out, with the whole policy. Both are CPU
//! time of the one thread, and compared by what they take in turn; the rate through the port is by the clock, with all threads.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench ends when something fails")]

mod measure;

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Duration, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::Measurement};
use istiod_lite::{
    identity::{
        authenticate::{Authenticator, KeySetVerifier},
        ca::{self, CaHandle, IssuePolicy, Serial, SigningCa},
        ceremony::{self, CaRequest, CaSubject},
        key::{KeyType, PrivateKey},
        local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer, TokenRequest},
        metrics::CaMetrics,
        service::CertificateService,
        system_clock,
    },
    mesh::model::SpiffeId,
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    serve::{
        connection::ConnectionOptions,
        connections::Connections,
        secure_grpc::SecureGrpc,
        tls::{ServingCertificate, ServingNames, TlsIdentity, TlsParameters},
    },
};
use jiff::Timestamp;
use measure::ThreadCpu;
use rcgen::SigningKey;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

const CLIENTS: usize = 8;
/// How often both are done in turn to be compared, and how many of each in one turn.
const TURNS: usize = 50;
const EACH: usize = 20;

struct Ca {
    folder: TempDir,
    key: PrivateKey,
}

impl Ca {
    fn new(kind: KeyType) -> Self {
        let subject = |name: &str| CaSubject { organization: "bench".into(), common_name: name.into() };
        let (root_key, key, now) = (PrivateKey::generate(KeyType::P256).unwrap(), PrivateKey::generate(kind).unwrap(), Timestamp::now());
        let (root_subject, subject) = (subject("root"), subject("intermediate"));
        let serial = || Serial::random().unwrap();
        let request = CaRequest { key: &root_key, subject: &root_subject, days: 100, now, serial: serial() };
        let root = ceremony::root_certificate(&request).unwrap();
        let request = CaRequest { key: &key, subject: &subject, days: 90, now, serial: serial() };
        let certificate = ceremony::intermediate_certificate(&request, 0, &root, root_key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("ca-cert.pem", certificate.pem()),
            ("ca-key.pem", key.to_pem()),
            ("root-cert.pem", root.pem()),
            ("cert-chain.pem", certificate.pem()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder, key }
    }

    fn load(&self) -> SigningCa {
        ca::load(self.folder.path(), Timestamp::now()).unwrap()
    }
}

fn request(kind: KeyType) -> String {
    let key = PrivateKey::generate(kind).unwrap();
    rcgen::CertificateParams::default().serialize_request(key.pair()).unwrap().pem().unwrap()
}

fn issue(criterion: &mut Criterion<ThreadCpu>) {
    let caller = SpiffeId { trust_domain: "cluster.local".into(), namespace: "shop".into(), service_account: "reviews".into() };
    let mut group = criterion.benchmark_group("certificates");
    group.throughput(Throughput::Elements(1));
    for (name, ca_kind, csr_kind) in [
        ("p256-ca/p256-csr", KeyType::P256, KeyType::P256),
        ("p256-ca/rsa2048-csr", KeyType::P256, KeyType::Rsa2048),
        ("rsa2048-ca/p256-csr", KeyType::Rsa2048, KeyType::P256),
    ] {
        let (ca, csr) = (Ca::new(ca_kind), request(csr_kind));
        let (signing, policy, message) = (ca.load(), IssuePolicy::default(), [7; 450]);
        let bare = || {
            let block = pem::parse(&csr).unwrap();
            let (_, request) = X509CertificationRequest::from_der(block.contents()).unwrap();
            request.verify_signature().unwrap();
            drop(black_box(ca.key.pair().sign(&message).unwrap()));
        };
        let issue = || {
            let serial = Serial::random().unwrap();
            let issued = signing.issue(black_box(&csr), &caller, 3600, &policy, Timestamp::now(), serial).unwrap();
            drop(black_box(issued.into_chain()));
        };
        group.bench_function(BenchmarkId::new("bare", name), |bencher| bencher.iter(bare));
        group.bench_function(BenchmarkId::new("issue", name), |bencher| bencher.iter(issue));
        println!("{name}: the bare cost is {:.1} % of ours\n", share(bare, issue) * 100.0);
    }
    group.finish();
}

/// Returns the CPU time that the one takes as a share of that of the other. Both are done in turn.
fn share(one: impl Fn(), other: impl Fn()) -> f64 {
    let spent = |work: &dyn Fn()| {
        let began = ThreadCpu.start();
        (0..EACH).for_each(|_| work());
        ThreadCpu.end(began)
    };
    let (mut of_one, mut of_other) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        of_one += spent(&one);
        of_other += spent(&other);
    }
    of_one.div_duration_f64(of_other)
}

struct Server {
    address: SocketAddr,
    roots: String,
    token: String,
    _folders: (Ca, TempDir),
}

async fn start() -> Server {
    let (ca, issuer, folder) = (Ca::new(KeyType::P256), LocalIssuer::generate(DEFAULT_ISSUER).unwrap(), tempfile::tempdir().unwrap());
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, issuer.key_set()).unwrap();
    let verifier = KeySetVerifier::open(&keys, DEFAULT_ISSUER, &[DEFAULT_AUDIENCE.into()], "cluster.local").unwrap();
    let handle = CaHandle::new(ca.load());
    let roots = handle.current().root_bundle().to_owned();
    let authenticator = Arc::new(Authenticator::new("cluster.local", vec![Arc::new(verifier)], system_clock()));
    let names = ServingCertificate::Ours(ServingNames::istiod("istio-system", None).and_local());
    let tls = TlsIdentity::new(handle.clone(), names, TlsParameters::default(), system_clock()).unwrap();
    let metrics = CaMetrics::default();
    let service = CertificateService::new(handle, IssuePolicy::default(), system_clock(), metrics.clone(), Arc::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = tonic::service::Routes::new(service.into_server());
    let options = ConnectionOptions::default();
    tokio::spawn(
        SecureGrpc { tls, routes, authenticator, metrics, options, connections: Connections::default() }
            .serve(listener, Default::default()),
    );
    let request =
        TokenRequest { namespace: "shop", service_account: "reviews", audience: DEFAULT_AUDIENCE, ttl: Duration::from_secs(3600) };
    let token = format!("Bearer {}", issuer.token(&request, Timestamp::now()).unwrap());
    Server { address, roots, token, _folders: (ca, folder) }
}

async fn connect(server: &Server) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&server.roots)).domain_name("localhost");
    let endpoint = Channel::from_shared(format!("https://{}", server.address)).unwrap().tcp_nodelay(true);
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

async fn ask(channel: Channel, token: &str, csr: &str) {
    let mut request = tonic::Request::new(IstioCertificateRequest { csr: csr.into(), validity_duration: 3600, metadata: None });
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    let chain = IstioCertificateServiceClient::new(channel).create_certificate(request).await.unwrap();
    assert_eq!(chain.into_inner().cert_chain.len(), 3);
}

fn through_port(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (server, csr) = (runtime.block_on(start()), request(KeyType::P256));
    let (server, csr): (Arc<Server>, Arc<str>) = (server.into(), csr.into());
    let mut group = criterion.benchmark_group("certificates through 15012, token each, server and 8 clients in one process");
    group.throughput(Throughput::Elements(1));
    for (name, fresh) in [("kept connections", false), ("a connection each", true)] {
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(|iterations| {
                let (server, csr) = (server.clone(), csr.clone());
                async move {
                    let mut clients = Vec::new();
                    let mut channels = Vec::new();
                    for _ in 0..CLIENTS {
                        channels.push(connect(&server).await);
                    }
                    let began = Instant::now();
                    for (index, channel) in channels.into_iter().enumerate() {
                        let (server, csr) = (server.clone(), csr.clone());
                        let share = (iterations as usize + index) / CLIENTS;
                        clients.push(tokio::spawn(async move {
                            for _ in 0..share {
                                let channel = if fresh { connect(&server).await } else { channel.clone() };
                                ask(channel, &server.token, &csr).await;
                            }
                        }));
                    }
                    for client in clients {
                        client.await.unwrap();
                    }
                    began.elapsed()
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = issuing;
    config = Criterion::default().with_measurement(ThreadCpu);
    targets = issue
}
criterion_group!(serving, through_port);
criterion_main!(issuing, serving);

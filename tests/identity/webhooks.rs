//! Port 15017 as the API server uses it: TLS by our own certificate, without one of its own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, routing::post};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use istiod_lite::{
    budget::Budget,
    identity::{ca::CaHandle, system_clock},
    mesh::world::World,
    serve::{
        connections::Connections,
        https::{self, Bounds},
        readiness::{BlockReady, Readiness},
        tls::{ServingCertificate, ServingNames, TlsIdentity, TlsParameters},
    },
    webhook::inject::{self, InjectionMetrics, Injector, Settings},
};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::fixture::Authority;

struct Port {
    address: SocketAddr,
    authority: Authority,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    _worlds: watch::Sender<Arc<World>>,
    _block: BlockReady,
}

impl Port {
    async fn start(bounds: Bounds) -> Self {
        let authority = Authority::new();
        let ca = CaHandle::new(authority.load().unwrap());
        let names = ServingCertificate::Ours(ServingNames::istiod("istio-system", None));
        let tls = TlsIdentity::new(ca, names, TlsParameters::default(), system_clock()).unwrap();
        let (worlds, seen) = watch::channel(Arc::default());
        let injector = Injector { settings: Settings::default(), worlds: seen, metrics: InjectionMetrics::default() };
        let slow = |body: Bytes| async move {
            tokio::time::sleep(Duration::from_millis(String::from_utf8_lossy(&body).parse().unwrap_or_default())).await;
            "answered"
        };
        let webhooks = inject::routes(Arc::new(injector)).route("/slow", post(slow));
        let readiness = Readiness::default();
        let block = readiness.block("the test");
        let routes: Router = https::router(webhooks, readiness, bounds, Budget::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(https::serve(listener, tls, routes, bounds, Connections::default(), shutdown.clone()));
        Self { address, authority, shutdown, serving, _worlds: worlds, _block: block }
    }

    async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.root.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = "istiod.istio-system.svc".try_into().unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn ask(&self, protocol: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
        let stream = TokioIo::new(self.connect(protocol).await);
        let request = Request::post(path).header("host", "istiod").header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body.into())).unwrap();
        let response = if protocol == "h2" {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(with_authority(request)).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

fn with_authority<B>(mut request: Request<B>) -> Request<B> {
    let path = request.uri().path().to_owned();
    *request.uri_mut() = format!("https://istiod{path}").parse().unwrap();
    request
}

fn review() -> String {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}});
    let request = json!({"uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

#[tokio::test]
async fn a_pod_is_injected_over_both_versions_of_http() {
    let port = Port::start(Bounds::default()).await;
    for protocol in ["http/1.1", "h2"] {
        let (status, body) = port.ask(protocol, "/inject/cluster/c1", review()).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)), "{protocol}: {body}");
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        assert_eq!(port.ask(protocol, "/other", "").await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_is_too_large_or_takes_too_long_is_not_answered() {
    let bounds = Bounds { body: 1000, request_time: Duration::from_millis(500), ..Bounds::default() };
    let port = Port::start(bounds).await;
    assert_eq!(port.ask("h2", "/inject", vec![b' '; 1001]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(port.ask("h2", "/slow", "0").await, (StatusCode::OK, "answered".to_owned()));
    assert_eq!(port.ask("http/1.1", "/slow", "60000").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_request_under_way_is_answered_on_shutdown() {
    let port = Port::start(Bounds::default()).await;
    let shutdown = port.shutdown.clone();
    let stop = async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shutdown.cancel();
    };
    let (answer, ()) = tokio::join!(port.ask("h2", "/slow", "2000"), stop);
    assert_eq!(answer, (StatusCode::OK, "answered".to_owned()));
    tokio::time::timeout(Duration::from_secs(30), port.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn connections_that_are_quiet_for_long_are_closed() {
    let port = Port::start(Bounds { quiet_time: Duration::from_secs(1), ..Bounds::default() }).await;
    let stream = TokioIo::new(port.connect("h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for pause in [100; 15].into_iter().chain([0]) {
        let request = with_authority(Request::post("/slow").body(Full::new(Bytes::from("10"))).unwrap());
        sender.ready().await.unwrap();
        sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    assert!(!connection.is_finished());
    tokio::time::timeout(Duration::from_secs(60), connection).await.expect("closed when it is quiet").unwrap().unwrap();
}

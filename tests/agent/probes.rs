//! What the kubelet and Prometheus ask the agent, and the agent the application.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::SanType;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    LONG,
    client::{http, http_with},
    control_plane::Authority,
    stage::{Stage, envoy},
};

/// An application that answers by the path, and remembers what it was asked and from where.
#[derive(Clone, Default)]
struct Application {
    asked: Arc<Mutex<Vec<(SocketAddr, String)>>>,
}

impl Application {
    async fn answer(&self, peer: SocketAddr, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut buffer = vec![0; 4096];
        let length = stream.read(&mut buffer).await?;
        let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        self.asked.lock().push((peer, head));
        let answer = match path.as_str() {
            "/silent" => return std::future::pending().await,
            "/teapot" => "418 I'm a teapot\r\ncontent-type: text/tea\r\ncontent-length: 5\r\n\r\nshort".to_owned(),
            "/moved" => "302 Found\r\nlocation: /live?x=1\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/away" => "302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/metrics" => "200 OK\r\ncontent-length: 11\r\n\r\ntea_cups 3\n".to_owned(),
            _ => format!("200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()),
        };
        stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await?;
        stream.shutdown().await
    }

    async fn serve(&self, at: SocketAddr, tls: Option<TlsAcceptor>) -> Result<()> {
        let (application, listener) = (self.clone(), TcpListener::bind(at).await?);
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (application, tls) = (application.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => application.answer(peer, tls.accept(stream).await?).await,
                        None => application.answer(peer, stream).await,
                    }
                });
            }
        });
        Ok(())
    }
}

#[tokio::test]
async fn the_application_is_asked_as_the_kubelet_would_have() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let application = Application::default();
    application.serve(stage.at(9080), None).await?;
    application.serve(stage.at(9443), Some(self_signed()?)).await?;
    serve_health(stage.at(9000)).await?;
    stage.environment.push(("ISTIO_KUBE_APP_PROBERS", PROBERS.to_owned()));
    stage.start_agent(&[])?;
    stage.wait("listening", async || http("GET", stage.at(15020), "/metrics").await.is_ok()).await?;

    for (path, status, body) in [
        ("/app-health/app/livez", 200, "/live"),
        ("/app-health/app/readyz", 418, "short"),
        ("/app-health/tls/livez", 200, "/secure"),
        ("/app-health/moved/livez", 200, "/live?x=1"),
        ("/app-health/away/livez", 302, ""),
        ("/app-health/tcp/livez", 200, ""),
        ("/app-health/grpc/livez", 200, ""),
        ("/app-lifecycle/app/prestopz", 200, "/bye"),
    ] {
        ensure!(http("GET", stage.at(15020), path).await? == (status, body.to_owned()), "{path}");
    }
    for (path, reason) in [
        ("/app-health/closed/livez", "refused"),
        ("/app-health/closed/readyz", "refused"),
        ("/app-health/grpc/readyz", "status 2, not SERVING"),
        ("/app-health/empty/livez", "neither httpGet"),
    ] {
        let (status, body) = http("GET", stage.at(15020), path).await?;
        ensure!(status == 500 && body.contains(reason), "{path}: {status} {body}");
    }
    ensure!(http("GET", stage.at(15020), "/app-health/other/livez").await?.0 == 404);
    ensure!(http("POST", stage.at(15020), "/app-health/app/livez").await?.0 == 405);

    let start = Instant::now();
    let (status, body) = http("GET", stage.at(15020), "/app-health/silent/livez").await?;
    ensure!(status == 500 && body.contains("no answer within 1s"), "{status} {body}");
    ensure!(start.elapsed() >= Duration::from_secs(1));

    application.asked.lock().clear();
    http_with("GET", stage.at(15020), "/app-health/app/livez", "user-agent: kube-probe/1.34\r\n").await?;
    let (peer, head) = application.asked.lock()[0].clone();
    ensure!(peer.ip().to_string() == "127.0.0.6", "asked from {peer}, which capture would take");
    let head = head.to_ascii_lowercase();
    for line in ["user-agent: kube-probe/1.34", "x-probe: live", "host: shop.example"] {
        ensure!(head.contains(line), "{line} in {head}");
    }
    Ok(())
}

const PROBERS: &str = r#"{
    "/app-health/app/livez": {"httpGet": {"path": "/live", "port": 9080, "httpHeaders":
        [{"name": "X-Probe", "value": "live"}, {"name": "Host", "value": "shop.example"}]}},
    "/app-health/app/readyz": {"httpGet": {"path": "/teapot", "port": 9080, "scheme": "HTTP"}},
    "/app-health/tls/livez": {"httpGet": {"path": "secure", "port": "9443", "scheme": "HTTPS"}, "timeoutSeconds": 10},
    "/app-health/moved/livez": {"httpGet": {"path": "/moved", "port": 9080}},
    "/app-health/away/livez": {"httpGet": {"path": "/away", "port": 9080}},
    "/app-health/silent/livez": {"httpGet": {"path": "/silent", "port": 9080}},
    "/app-health/tcp/livez": {"tcpSocket": {"port": 9080}},
    "/app-health/grpc/livez": {"grpc": {"port": 9000}, "timeoutSeconds": 10},
    "/app-health/grpc/readyz": {"grpc": {"port": 9000, "service": "down"}, "timeoutSeconds": 10},
    "/app-health/closed/livez": {"httpGet": {"path": "/", "port": 9}},
    "/app-health/closed/readyz": {"tcpSocket": {"port": 9}},
    "/app-health/empty/livez": {},
    "/app-lifecycle/app/prestopz": {"httpGet": {"path": "/bye", "port": 9080}}
}"#;

#[tokio::test]
async fn one_scrape_gets_the_metrics_of_proxy_and_application() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    drop(listener);
    stage.environment.push(("ISTIO_PROMETHEUS_ANNOTATIONS", format!(r#"{{"scrape":"true","port":"{port}"}}"#)));
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    // An application that is not there yet takes nothing away.
    let (status, text) = http("GET", stage.at(15020), "/stats/prometheus").await?;
    ensure!(status == 200 && text.contains("envoy_server_live") && !text.contains("tea_cups"), "{status} {text}");
    Application::default().serve(([127, 0, 0, 1], port).into(), None).await?;
    let (_, text) = http("GET", stage.at(15020), "/stats/prometheus").await?;
    for line in ["envoy_server_live", "istiod_lite_agent_certificates_total 1", "istiod_lite_agent_scrape_failures_total 1", "tea_cups 3\n"]
    {
        ensure!(text.contains(line), "{line} in {text}");
    }
    ensure!(!text.contains("# EOF"), "{text}");
    Ok(())
}

/// Makes a certificate that nobody vouches for: the kubelet does not ask.
fn self_signed() -> Result<TlsAcceptor> {
    let (chain, key) = Authority::new()?.identity(SanType::DnsName("elsewhere.example".try_into()?))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from_pem_slice(chain.as_bytes())?], PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Runs a gRPC server that reports itself as serving, except for the service `down`.
async fn serve_health(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).await?;
    let answer = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
        use http_body_util::BodyExt;
        let asked = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let status = if asked.ends_with(b"down") { 2 } else { 1 };
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
        let frames = [Ok::<_, Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
        Response::builder().header("content-type", "application/grpc").body(StreamBody::new(futures::stream::iter(frames)))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(())
}

//! A gateway whose ProxyConfig says which headers of its own it puts into requests and answers.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use harness::address::Loopback;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    mesh::turn,
    topology::{Gateway, gateway_at},
};

/// What was said on both sides of a gateway.
struct Seen {
    /// The request, as the application got it.
    request: String,
    /// The answer, as the client got it.
    answer: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_sends_the_headers_that_its_proxy_config_asks_for() -> Result<()> {
    let _turn = turn().await?;
    let network = Loopback::free()?;
    let (target, application) = (network.socket(2, 8080), network.socket(3, 9080));
    let server = serve(application).await?;

    let usual = seen(target, application, "").await?;
    usual.request_has(&["x-envoy-attempt-count: 1", "x-request-id: ", "x-mixed-case: 1"], &["x-forwarded-port", "x-forwarded-host"])?;
    usual.answer_has(&["server: istio-envoy", "x-envoy-upstream-service-time: "], &[])?;

    let asked = "attemptCount: {disabled: true}, requestId: {disabled: true}, envoyDebugHeaders: {disabled: true}, \
                 server: {disabled: true}, preserveHttp1HeaderCase: true, xForwardedHost: {enabled: true}, \
                 xForwardedPort: {enabled: true}";
    let asked = seen(target, application, asked).await?;
    let port = format!("x-forwarded-port: {}", target.port());
    let given = ["X-Mixed-Case: 1", "x-forwarded-host: shop.example.com", &port];
    asked.request_has(&given, &["x-envoy-attempt-count", "x-request-id"])?;
    asked.answer_has(&["Server: application"], &["x-envoy-upstream-service-time"])?;

    let named = seen(target, application, "server: {value: shop}").await?;
    named.answer_has(&["server: shop"], &[])?;
    server.abort();
    Ok(())
}

// === impl Seen ===

impl Seen {
    fn request_has(&self, given: &[&str], left_out: &[&str]) -> Result<()> {
        has(&self.request, given, left_out)
    }

    fn answer_has(&self, given: &[&str], left_out: &[&str]) -> Result<()> {
        has(&self.answer, given, left_out)
    }
}

fn has(text: &str, given: &[&str], left_out: &[&str]) -> Result<()> {
    let begins = |start: &str| text.lines().any(|line| line.starts_with(start));
    for start in given {
        ensure!(begins(start), "no {start}:\n{text}");
    }
    let lower = text.to_lowercase();
    for name in left_out {
        ensure!(!lower.lines().any(|line| line.starts_with(name)), "{name} is there:\n{text}");
    }
    Ok(())
}

/// Sends a request through a gateway with these `proxyHeaders`.
async fn seen(target: SocketAddr, application: SocketAddr, headers: &str) -> Result<Seen> {
    let gateway = Gateway::start(target, &objects(target, application, headers)).await?;
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nX-Mixed-Case: 1\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    drop(gateway);
    let (head, request) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    Ok(Seen { request: request.to_owned(), answer: head.to_owned() })
}

/// Answers each request with its own text.
async fn serve(at: SocketAddr) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(at).await?;
    Ok(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 8192];
                let mut length = 0;
                while !request[..length].ends_with(b"\r\n\r\n") {
                    match stream.read(&mut request[length..]).await {
                        Ok(read) if read > 0 => length += read,
                        _ => return,
                    }
                }
                let head = format!("HTTP/1.1 200 OK\r\nServer: application\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all(&[head.as_bytes(), &request[..length]].concat()).await;
            });
        }
    }))
}

fn objects(target: SocketAddr, application: SocketAddr, headers: &str) -> String {
    let (address, application_port) = (application.ip(), application.port());
    let gateway = gateway_at(target, &format!("proxyHeaders: {{{headers}}}"));
    format!(
        "\
{gateway}apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: application, namespace: edge}}
spec:
  hosts: [application.example.com]
  ports: [{{number: {application_port}, name: http, protocol: HTTP}}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{{address: {address}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: edge}}
spec:
  hosts: [shop.example.com]
  gateways: [public]
  http:
  - rewrite: {{authority: application.example.com}}
    route: [{{destination: {{host: application.example.com, port: {{number: {application_port}}}}}}}]
"
    )
}

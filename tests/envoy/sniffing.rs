//! A port of which no protocol is declared: both sides tell HTTP/1, HTTP/2 and other bytes apart, inside mTLS.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use harness::{
    http_client,
    mesh::{CLIENT, Mesh, REVIEWS_V1, START},
    wait,
    workload::{PEER, Workload},
};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::mesh::{start, turn};

pub(crate) const HOST: &str = "any.shop.svc.cluster.local:9070";
/// What the server's sidecar says of a client that proved who it is. TCP has no headers to say it in.
const CLIENT_IDENTITY: &str = "URI=spiffe://cluster.local/ns/shop/sa/client";

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_40() -> Result<()> {
    sniff("1.40").await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_38() -> Result<()> {
    sniff("1.38").await
}

async fn sniff(envoy_minor: &str) -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start(envoy_minor, true).await?;
    let _workload = Workload::start_any("v1", mesh.network().socket(REVIEWS_V1.host, 9071)).await?;
    let target = mesh.network().socket(CLIENT.host, 9070);
    declare(&mesh)?;
    wait::until("an answer on the sniffed port", START, || async {
        let answer = http_client::get(target, HOST, "/").await?;
        ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await?;
    let before = server_connections(&mut mesh).await?;

    let first = http_client::get(target, HOST, "/").await?;
    ensure!(first.status == StatusCode::OK && first.header(PEER).contains(CLIENT_IDENTITY), "HTTP/1 was not HTTP to the server: {first:?}");
    let second = get_http2(target, &[]).await?;
    let peer = second.headers().get(PEER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(second.status() == StatusCode::OK && peer.contains(CLIENT_IDENTITY), "HTTP/2 was not HTTP to the server: {second:?}");
    ensure!(echo(target).await? == "neither of the two\n", "the echo differs");

    let after = server_connections(&mut mesh).await?;
    ensure!(after.1 > before.1, "the server's sidecar saw no connection of HTTP/2: {before:?}, {after:?}");
    ensure!(after.2 > before.2, "the server's sidecar saw no TCP connection: {before:?}, {after:?}");
    mesh.check_running()
}

pub(crate) async fn get_http2(target: SocketAddr, headers: &[(&str, &str)]) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(target).await?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = headers.iter().fold(Request::get(format!("http://{HOST}/")), |request, (name, value)| request.header(*name, *value));
    let request = request.body(Empty::<Bytes>::new())?;
    Ok(tokio::time::timeout(START, sender.send_request(request)).await??)
}

async fn echo(target: SocketAddr) -> Result<String> {
    let said = b"neither of the two\n";
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(said).await?;
    let mut heard = vec![0; said.len()];
    tokio::time::timeout(START, stream.read_exact(&mut heard)).await.context("no echo")??;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

/// Returns the connections that the server's sidecar took for HTTP/1, HTTP/2 and TCP on its inbound side.
async fn server_connections(mesh: &mut Mesh) -> Result<(u64, u64, u64)> {
    let server = mesh.proxies().iter().find(|proxy| proxy.pod().name == REVIEWS_V1.name).context("no server")?;
    let stats = server.admin().stats().await?;
    let sum = |prefix: &str, suffix: &str| {
        stats.iter().filter(|(name, _)| name.starts_with(prefix) && name.ends_with(suffix)).map(|(_, value)| value).sum()
    };
    Ok((
        sum("http.inbound", ".downstream_cx_http1_total"),
        sum("http.inbound", ".downstream_cx_http2_total"),
        sum("tcp.inbound", "9070;.downstream_cx_total") + sum("tcp.inbound|9070||", ".downstream_cx_total"),
    ))
}

/// Declares a service whose port says no protocol, and the ports for it on both sidecars.
pub(crate) fn declare(mesh: &Mesh) -> Result<()> {
    let server = mesh.network().address(REVIEWS_V1.host);
    let client = mesh.network().address(CLIENT.host);
    mesh.manifests().write(
        "any.yaml",
        &format!(
            r#"apiVersion: v1
kind: Service
metadata: {{name: any, namespace: shop}}
spec: {{clusterIP: 10.96.7.8, selector: {{app: reviews}}, ports: [{{name: any, port: 9070, targetPort: 9070}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: any, namespace: shop, labels: {{kubernetes.io/service-name: any}}}}
addressType: IPv4
ports: [{{name: any, port: 9070, protocol: TCP}}]
endpoints:
- {{addresses: [{server}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: reviews-v1-1, namespace: shop}}}}
"#
        ),
    )?;
    let sidecars = mesh.manifests().read("sidecars.yaml")?;
    let egress = format!(
        "  egress:\n  - port: {{number: 9070, name: any}}\n    bind: {client}\n    captureMode: NONE\n    hosts: [./any.shop.svc.cluster.local]\n"
    );
    let ingress = "  ingress:\n  - port: {number: 9070, name: any}\n    captureMode: NONE\n    defaultEndpoint: 0.0.0.0:9071\n";
    mesh.manifests().write("sidecars.yaml", &sidecars.replacen("  egress:\n", &egress, 1).replacen("  ingress:\n", ingress, 1))
}

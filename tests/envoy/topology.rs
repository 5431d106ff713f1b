//! A gateway behind other proxies: whom its ProxyConfig has it take for the client.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    mesh::START,
    process::{Process, run},
    wait,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::mesh::{options, turn};

/// What the proxies in front of the gateway added, the nearest last.
const FORWARDED: &str = "198.51.100.1, 198.51.100.2";
/// Whom the PROXY protocol names.
const PROXIED: &str = "203.0.113.7";

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_whom_trusted_proxies_name() -> Result<()> {
    let _turn = turn().await?;
    let network = Loopback::free()?;
    let target = network.socket(2, 8080);
    for (topology, proxied, expected) in [
        ("", false, Some("127.0.0.1")),
        ("numTrustedProxies: 1", false, Some("198.51.100.2")),
        ("numTrustedProxies: 2", false, Some("198.51.100.1")),
        ("proxyProtocol: {}", true, Some(PROXIED)),
        ("proxyProtocol: {}", false, None),
        ("numTrustedProxies: 1, proxyProtocol: {}", true, Some("198.51.100.2")),
    ] {
        let gateway = Gateway::start(target, &objects(target, topology)).await?;
        let client = client_seen(target, proxied).await?;
        ensure!(client.as_deref() == expected, "{topology:?}, by the PROXY protocol: {proxied}: {client:?}, wanted {expected:?}");
        drop(gateway);
    }
    Ok(())
}

/// An Envoy with what a gateway's proxy is sent, in its bootstrap.
pub(crate) struct Gateway {
    _envoy: Process,
    _home: tempfile::TempDir,
}

impl Gateway {
    /// Starts it with what `gateway-1.edge` is sent for these objects, and waits until it listens at `target`.
    pub(crate) async fn start(target: SocketAddr, objects: &str) -> Result<Self> {
        let options = options("1.40", true)?;
        let home = tempfile::tempdir()?;
        let file = |name: &str| home.path().join(name).to_string_lossy().into_owned();
        fs::write(file("in.yaml"), objects)?;
        let arguments = ["translate", "-f", &file("in.yaml"), "--proxy", "gateway-1.edge", "--bootstrap", "-o", "json"];
        fs::write(file("bootstrap.json"), run(&options.istiod_lite, &arguments)?)?;
        let mut command = Command::new(&options.envoy);
        command.args(["-c", &file("bootstrap.json"), "--concurrency", "1", "--use-dynamic-base-id"]);
        let envoy = Process::start("gateway", command, home.path())?;
        wait::until("the gateway listens", START, || async {
            TcpStream::connect(target).await?;
            Ok(())
        })
        .await?;
        Ok(Self { _envoy: envoy, _home: home })
    }
}

/// Returns the objects of a gateway that listens at an address and has a ProxyConfig; more documents may follow.
pub(crate) fn gateway_at(target: SocketAddr, config: &str) -> String {
    let (bind, port) = (target.ip(), target.port());
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: gateway-1
  namespace: edge
  labels: {{istio: ingressgateway}}
  annotations: {{proxy.istio.io/config: '{config}'}}
spec: {{containers: [{{name: istio-proxy, image: auto}}]}}
status: {{podIP: {bind}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: public, namespace: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, bind: {bind}, hosts: ['*']}}]
---
"
    )
}

fn objects(target: SocketAddr, topology: &str) -> String {
    gateway_at(target, &format!("gatewayTopology: {{{topology}}}"))
        + "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: edge}
spec:
  hosts: [shop.example.com]
  gateways: [public]
  http: [{directResponse: {status: 200}, headers: {response: {set: {x-client: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}}}]
"
}

/// Returns the client's address as the gateway sees it; `None` if the connection is closed without an answer.
pub(crate) async fn client_seen(target: SocketAddr, proxied: bool) -> Result<Option<String>> {
    let mut stream = TcpStream::connect(target).await?;
    let header = if proxied { format!("PROXY TCP4 {PROXIED} {} 4000 {}\r\n", target.ip(), target.port()) } else { String::new() };
    let request = format!("{header}GET / HTTP/1.1\r\nhost: shop.example.com\r\nx-forwarded-for: {FORWARDED}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    // One that is refused may be reset.
    if stream.read_to_string(&mut answer).await.is_err() || answer.is_empty() {
        return Ok(None);
    }
    let client = answer.lines().find_map(|line| line.strip_prefix("x-client: "));
    Ok(Some(client.with_context(|| answer.clone())?.trim().to_owned()))
}

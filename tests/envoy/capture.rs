//! Transparent capture: client and server in network namespaces of their own, iptables sends their TCP to the
//! sidecars, and what was a plain request for the client is mTLS on the wire.

use std::{
    fs::{self, Permissions},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Result, ensure};
use harness::{
    launch::{self, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    mesh::{CLIENT, Options, Pod, REVIEWS_V1, wait_until_ready},
    namespace::{Bridge, Namespace, SIDECAR_USER, Sniffer, missing, seen},
    process::{Process, tail},
    said::skip,
    workload::Workload,
};

use crate::mesh::{options, turn};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_is_mtls_on_the_wire() -> Result<()> {
    if let Some(reason) = missing() {
        skip("a_plain_request_is_mtls_on_the_wire", &reason);
        return Ok(());
    }
    let _turn = turn().await?;
    let options = options("1.40", true)?;
    let bridge = Bridge::create()?;
    let client = Namespace::create(&bridge, "client", 3, "127.0.0.1 localhost\n10.96.7.7 reviews\n")?;
    let server = Namespace::create(&bridge, "server", 4, "127.0.0.1 localhost\n")?;
    client.capture()?;
    server.capture()?;
    let _workload = server.inhabit(|| Workload::start("v1", SocketAddr::from(([0, 0, 0, 0], 9080)), None))?;

    let home = tempfile::tempdir()?;
    prepare(&options, home.path(), client.address(), server.address())?;
    let mut control_plane = launch::control_plane(&options, home.path(), bridge.address(1))?;
    wait_until_ready(&mut control_plane, SocketAddr::new(bridge.address(1), PORT_PLAIN_HTTP), "/ready").await?;
    let discovery = SocketAddr::new(bridge.address(1), PORT_SECURE_GRPC);
    let mut agents = Vec::new();
    for (namespace, pod) in [(&server, REVIEWS_V1), (&client, CLIENT)] {
        let mut agent = start_agent(&options, home.path(), namespace, pod, discovery)?;
        wait_until_ready(&mut agent, SocketAddr::new(namespace.address(), 15021), "/healthz/ready").await?;
        agents.push(agent);
    }
    prove(&client, &bridge).inspect_err(|_| agents.iter().for_each(|agent| eprintln!("{}:\n{}", agent.name(), tail(&agent.log(), 20))))
}

/// One plain request; the certificate that the server's sidecar saw; and no word of either on the wire.
fn prove(client: &Namespace, bridge: &Bridge) -> Result<()> {
    let control = format!("http://{}:{PORT_PLAIN_HTTP}/ready", bridge.address(1));
    let sniffer = Sniffer::start(bridge)?;
    // The sidecar's own user is not captured: proof that the recorder sees what is sent in the clear.
    client.run(Some(SIDECAR_USER), "curl", &["-sS", "--max-time", "5", &control])?;
    let answer =
        client.run(None, "curl", &["-sS", "-i", "--max-time", "5", "--retry", "5", "--retry-all-errors", "http://reviews:9080/"])?;
    let frames = sniffer.stop()?;

    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    ensure!(answer.contains("reviews v1"), "not the workload's answer: {answer}");
    let peer = answer.lines().find_map(|line| line.strip_prefix("x-peer: ")).unwrap_or_default();
    ensure!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/client"), "the client's certificate was not seen: {answer}");
    ensure!(peer.contains("By=spiffe://cluster.local/ns/shop/sa/reviews"), "the server's own identity is missing: {answer}");

    ensure!(seen(&frames, b"GET /ready"), "the recorder does not see plaintext: it proves nothing");
    for plaintext in [b"GET / HTTP".as_slice(), b"reviews v1", b"Host: reviews", b"host: reviews", b"x-version"] {
        ensure!(!seen(&frames, plaintext), "on the wire in the clear: {:?}", String::from_utf8_lossy(plaintext));
    }
    Ok(())
}

/// CA, tokens, objects; readable for the user of the sidecars.
fn prepare(options: &Options, home: &Path, client: IpAddr, server: IpAddr) -> Result<()> {
    fs::create_dir(home.join("logs"))?;
    fs::create_dir(home.join("config"))?;
    launch::ceremony(&options.istiod_lite, home)?;
    fs::write(home.join("config/shop.yaml"), objects(client, server))?;
    fs::set_permissions(home, Permissions::from_mode(0o755))?;
    fs::set_permissions(home.join("ca"), Permissions::from_mode(0o755))?;
    Ok(())
}

fn start_agent(options: &Options, home: &Path, namespace: &Namespace, pod: Pod, discovery: SocketAddr) -> Result<Process> {
    launch::issue_token(&options.istiod_lite, home, pod)?;
    for made in [home.join(format!("{}.token", pod.name)), home.join(pod.name)] {
        if !made.exists() {
            fs::create_dir(&made)?;
        }
        chown(&made, Some(SIDECAR_USER), Some(SIDECAR_USER))?;
    }
    let mut command = namespace.command(Some(SIDECAR_USER), &options.istiod_lite.display().to_string());
    launch::agent(&mut command, options, home, pod, namespace.address(), discovery, "REDIRECT");
    Process::start(pod.name, command, &home.join("logs"))
}

fn objects(client: IpAddr, server: IpAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec: {{clusterIP: 10.96.7.7, selector: {{app: reviews}}, ports: [{{name: http, port: 9080, targetPort: 9080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client-1, namespace: shop, labels: {{app: client, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: client}}
status: {{podIP: {client}, podIPs: [{{ip: {client}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: reviews-v1-1, namespace: shop, labels: {{app: reviews, version: v1, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: reviews}}
status: {{podIP: {server}, podIPs: [{{ip: {server}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: reviews-a, namespace: shop, labels: {{kubernetes.io/service-name: reviews}}}}
addressType: IPv4
ports: [{{name: http, port: 9080, protocol: TCP}}]
endpoints:
- {{addresses: [{server}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: reviews-v1-1, namespace: shop}}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: shop}}
spec: {{mtls: {{mode: STRICT}}}}
"#
    )
}

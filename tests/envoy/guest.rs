//! One more workload of the mesh, whose certificate is revoked while others' are not.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{
    http_client::get_text,
    load::{Load, Path as Way, Plan},
    mesh::{CONVERGE, MESH_HOST, Mesh, Pod, Proxy, REVIEWS_V1, REVIEWS_V2},
    wait,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const POD: Pod =
    Pod { host: 6, name: "guest-1", namespace: "shop", service_account: "guest", labels: &[("app", "guest")], role: "sidecar" };

/// The workload, under load of its own.
pub(crate) struct Guest {
    proxy: Proxy,
    load: Load,
    established: TcpStream,
}

impl Guest {
    /// Adds it to the mesh, with a certificate that no renewal replaces during a test.
    pub(crate) async fn join(mesh: &Mesh) -> Result<Self> {
        mesh.manifests().write("guest.yaml", &objects(mesh))?;
        let proxy = mesh.join(POD).await?;
        let [http, tcp] = [9080, 9000].map(|port| mesh.network().socket(POD.host, port));
        let established = wait::until("the guest to be answered", CONVERGE, || async {
            let mut stream = TcpStream::connect(tcp).await?;
            echoed(&mut stream).await?;
            Ok(stream)
        })
        .await?;
        let way = Way { name: "guest", target: http, host: MESH_HOST.to_owned() };
        wait::until("the guest's HTTP", CONVERGE, || get_ok(way.clone())).await?;
        Ok(Self { proxy, load: Load::start(&Plan::new(vec![way], 20)), established })
    }

    /// Revokes its certificate: who serves refuses it soon after having the lists. `publish` puts lists that revoke a number beside the
    /// CA, and returns them. Its connections stay open until it is dropped.
    pub(crate) async fn is_revoked(&mut self, mesh: &Mesh, publish: impl Fn(Option<&str>) -> Result<String>) -> Result<()> {
        for proxy in [REVIEWS_V1, REVIEWS_V2] {
            // Lists that revoke nobody change nothing.
            has_lists(mesh, proxy, &publish(None)?).await?;
        }
        let before = self.load.so_far();
        ensure!(before.failures().is_empty(), "before it is revoked: {}", before.failures()[0]);
        let own: Value = serde_json::from_str(&get_text(self.proxy.admin().address(), "/certs").await?)?;
        let serial =
            own["certificates"].as_array().into_iter().flatten().find_map(|entry| entry["cert_chain"][0]["serial_number"].as_str());
        let lists = publish(Some(serial.context("the guest has no certificate")?))?;
        for proxy in [REVIEWS_V1, REVIEWS_V2] {
            has_lists(mesh, proxy, &lists).await?;
        }
        let acknowledged = Instant::now();
        // A connection ends after few requests, and the next one is a handshake.
        let refused = wait::until("the revoked workload to be refused", CONVERGE, || async {
            let window = self.load.since(acknowledged);
            ensure!(!window.failures().is_empty(), "{} requests are answered", window.outcomes().len());
            Ok(acknowledged.elapsed())
        })
        .await?;
        println!("a revoked workload is refused {:.2} s after the last Envoy that serves it has the lists", refused.as_secs_f64());
        // Each way to each version has had its handshake.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let settled = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let window = self.load.since(settled);
        let (failed, sent) = (window.failures().len(), window.outcomes().len());
        ensure!(sent > 0 && failed == sent, "{failed} of {sent} requests are refused");
        // Envoy looks at certificates in handshakes alone.
        echoed(&mut self.established).await.context("what was established before")
    }
}

async fn get_ok(way: Way) -> Result<()> {
    let answer = harness::http_client::get(way.target, &way.host, "/").await?;
    ensure!(answer.status == http::StatusCode::OK, "{}", answer.status);
    Ok(())
}

/// Waits until an Envoy verifies by these lists.
async fn has_lists(mesh: &Mesh, pod: Pod, lists: &str) -> Result<()> {
    let (lists, admin) = (BASE64_STANDARD.encode(lists), SocketAddr::new(mesh.network().address(pod.host), 15000));
    wait::until(&format!("{} to have the lists", pod.name), CONVERGE, || async {
        let secrets = get_text(admin, "/config_dump?resource=dynamic_active_secrets").await?;
        ensure!(secrets.contains(&lists), "it has others");
        Ok(())
    })
    .await
}

/// Has a few bytes come back on an open connection.
pub(crate) async fn echoed(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    tokio::time::timeout(CONVERGE, stream.read_exact(&mut answer)).await??;
    ensure!(&answer == b"hello", "{answer:?}");
    Ok(())
}

/// Reads the lists of a folder, after they were written there, and gives them to the control plane at once.
pub(crate) fn hand_over(folder: &Path, ca: &Path) -> Result<String> {
    fs::copy(folder.join("ca-crl.pem"), ca.join("new-crl"))?;
    fs::rename(ca.join("new-crl"), ca.join("ca-crl.pem"))?;
    Ok(fs::read_to_string(ca.join("ca-crl.pem"))?)
}

fn objects(mesh: &Mesh) -> String {
    let address = mesh.network().address(POD.host);
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: guest-1, namespace: shop, labels: {{app: guest, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: guest, nodeName: laptop}}
status: {{podIP: {address}, podIPs: [{{ip: {address}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: guest, namespace: shop}}
spec:
  workloadSelector: {{labels: {{app: guest}}}}
  egress:
  - port: {{number: 9080, protocol: HTTP, name: http}}
    bind: {address}
    captureMode: NONE
    hosts: [./reviews.shop.svc.cluster.local]
  - port: {{number: 9000, protocol: TCP, name: tcp-echo}}
    bind: {address}
    captureMode: NONE
    hosts: [./reviews.shop.svc.cluster.local]
"#
    )
}

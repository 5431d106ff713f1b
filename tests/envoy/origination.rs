//! TLS towards a server outside the mesh, with certificates from Secrets (DestinationRule `credentialName`): from a gateway and from a
//! sidecar.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use harness::{
    http_client::get,
    mesh::{CLIENT, CONVERGE, GATEWAY, Mesh},
    wait,
};
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use crate::{
    mesh::{start, turn},
    users_ca::Ca,
};

/// The host number of the server in the mesh's network, and its port.
const PARTNER: (u8, u16) = (210, 8443);
/// Where the gateway takes requests for it, and where the client's sidecar does: the port of its service.
const AT_GATEWAY: u16 = 8083;
const AT_SIDECAR: u16 = 9083;
/// The serial numbers of the server's certificate, and of the client's first one.
const SERVER: u64 = 0x71;
const FIRST: u64 = 0x81;

/// A server that asks its clients for certificates of a CA, and answers with the serial number of what it was shown.
struct Partner {
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Partner {
    async fn start(address: SocketAddr, servers: &Ca, clients: &Ca) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes())?)?;
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let (certificate, key) = servers.issue("partner.example.com", SERVER)?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(address).await?);
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    counted.fetch_add(1, Ordering::SeqCst);
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(serial).unwrap_or_default();
                    // One request on each connection: the next one shows the certificate that there is by then.
                    let answer = service_fn(move |_| {
                        let response = Response::new(Full::new(bytes::Bytes::from(shown.clone())));
                        async move { Ok::<_, std::convert::Infallible>(response) }
                    });
                    let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(Self { connections, task })
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serial(certificate: &CertificateDer<'_>) -> String {
    let read = istiod_lite::identity::certificate::Certificate::from_der(certificate);
    read.map(|certificate| certificate.serial.to_string()).unwrap_or_default()
}

/// Returns everything but the DestinationRules and Secrets.
fn objects(mesh: &Mesh) -> String {
    let (partner, gateway) = (mesh.network().address(PARTNER.0), mesh.network().address(GATEWAY.host));
    let port = PARTNER.1;
    format!(
        r#"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: partner, namespace: shop}}
spec:
  hosts: [partner.example.com]
  ports: [{{number: {AT_SIDECAR}, targetPort: {port}, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {partner}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: partner, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {AT_GATEWAY}, name: http-partner, protocol: HTTP}}, bind: {gateway}, hosts: [partner.example.com]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: partner, namespace: istio-system}}
spec:
  hosts: [partner.example.com]
  gateways: [partner]
  http: [{{route: [{{destination: {{host: partner.example.com, port: {{number: {AT_SIDECAR}}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: partner, namespace: shop}}
spec:
  hosts: [partner.example.com]
  http: [{{route: [{{destination: {{host: partner.example.com, port: {{number: {AT_SIDECAR}}}}}}}]}}]
"#
    )
}

/// Writes the rules of both clients, with more in their `tls`.
fn rule(mesh: &Mesh, more: &str) -> Result<()> {
    let of = |namespace: &str, selector: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: partner, namespace: {namespace}}}\n\
             spec: {{host: partner.example.com, {selector}trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: partner, \
             sni: partner.example.com{more}}}}}}}\n"
        )
    };
    let rules = of("istio-system", "exportTo: [.], ") + &of("shop", "workloadSelector: {matchLabels: {app: client}}, ");
    mesh.manifests().write("partner-rules.yaml", &rules)
}

/// Writes the Secret of both clients: another certificate in each namespace.
fn secrets(mesh: &Mesh, servers: &Ca, clients: &Ca, first: u64, crl: Option<&str>) -> Result<()> {
    let mut documents = Vec::new();
    for (namespace, serial) in [("istio-system", first), ("shop", first + 1)] {
        let (certificate, key) = clients.issue("client.example.com", serial)?;
        let mut entries = json!({"tls.crt": certificate, "tls.key": key, "ca.crt": servers.pem});
        if let Some(crl) = crl {
            entries["ca.crl"] = crl.into();
        }
        let metadata = json!({"name": "partner", "namespace": namespace});
        documents.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": entries}).to_string());
    }
    mesh.manifests().write("partner-secrets.yaml", &documents.join("\n---\n"))
}

/// Waits until both clients get this status, and show these certificates if it is a good one.
async fn until(mesh: &Mesh, what: &str, status: u16, first: u64) -> Result<()> {
    let ways = [(mesh.network().socket(GATEWAY.host, AT_GATEWAY), first), (mesh.network().socket(CLIENT.host, AT_SIDECAR), first + 1)];
    for (target, serial) in ways {
        wait::until(what, CONVERGE, || async {
            let answer = get(target, "partner.example.com", "/").await?;
            let shown = u64::from_str_radix(&answer.text().replace(':', ""), 16).ok();
            let is_it = status != 200 || shown == Some(serial);
            ensure!(answer.status == status && is_it, "{target}: {} {}, not {status} with {serial:x}", answer.status, answer.text());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_originated_with_certificates_from_secrets_and_never_without() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let (servers, clients) = (Ca::new()?, Ca::new()?);
    let partner = Partner::start(mesh.network().socket(PARTNER.0, PARTNER.1), &servers, &clients).await?;
    mesh.manifests().write("partner.yaml", &objects(&mesh))?;
    let client = mesh.network().address(CLIENT.host);
    let listener = format!(
        "  egress:\n  - {{port: {{number: {AT_SIDECAR}, protocol: HTTP, name: http-partner}}, bind: {client}, captureMode: NONE, \
         hosts: [./partner.example.com]}}\n"
    );
    mesh.manifests().write("sidecars.yaml", &mesh.manifests().read("sidecars.yaml")?.replacen("  egress:\n", &listener, 1))?;
    rule(&mesh, "")?;
    // The Secret is not there yet: no request goes out, in plaintext or otherwise.
    until(&mesh, "a refusal without the Secret", 503, 0).await?;
    ensure!(partner.connections.load(Ordering::SeqCst) == 0, "somebody connected without a certificate");
    secrets(&mesh, &servers, &clients, FIRST, None)?;
    until(&mesh, "an answer of the partner", 200, FIRST).await?;

    // The server must have the name that is asked for, if one is.
    rule(&mesh, ", subjectAltNames: [other.example.com]")?;
    until(&mesh, "a refusal by name", 503, 0).await?;
    rule(&mesh, ", subjectAltNames: [other.example.com, partner.example.com]")?;
    until(&mesh, "an answer by name", 200, FIRST).await?;

    // It must not be revoked, by a file or by the Secret.
    let lists = mesh.home().join("revoked.pem");
    fs::write(&lists, servers.crl(&[SERVER])?)?;
    rule(&mesh, &format!(", caCrl: {}", lists.display()))?;
    until(&mesh, "a refusal by a file", 503, 0).await?;
    rule(&mesh, "")?;
    until(&mesh, "an answer without the file", 200, FIRST).await?;
    secrets(&mesh, &servers, &clients, FIRST, Some(&servers.crl(&[SERVER])?))?;
    until(&mesh, "a refusal by the Secret", 503, 0).await?;
    secrets(&mesh, &servers, &clients, FIRST + 2, Some(&servers.crl(&[])?))?;
    until(&mesh, "an answer with another certificate", 200, FIRST + 2).await?;

    // What cannot be used leaves what was there.
    mesh.manifests().write(
        "partner-secrets.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: partner, namespace: shop}\nstringData: {tls.crt: nonsense, tls.key: nonsense}\n",
    )?;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    until(&mesh, "the last good certificate", 200, FIRST + 2).await?;
    mesh.check_running().context("all of it runs")
}

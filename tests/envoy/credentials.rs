//! A gateway with certificates from Secrets: rotated under load, revoked, missing, malformed, with staples, of two kinds.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use harness::{
    launch::{self, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    mesh::{CONVERGE, GATEWAY, wait_until_ready},
    namespace::{Bridge, Namespace, missing},
    process::tail,
    said::skip,
    wait,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{
    capture::{prepare, start_agent},
    mesh::{options, turn},
    users_ca::Ca,
};

const ROTATIONS: u64 = 20;
/// How long one of the clients waits before its next request.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_takes_its_certificates_from_secrets() -> Result<()> {
    if let Some(reason) = missing() {
        skip("a_gateway_takes_its_certificates_from_secrets", &reason);
        return Ok(());
    }
    let _turn = turn().await?;
    let options = options("1.40", true)?;
    let bridge = Bridge::create()?;
    let pod = Namespace::create(&bridge, "edge", 13, "127.0.0.1 localhost\n")?;
    pod.run(None, "sysctl", &["-qw", "net.ipv4.ip_unprivileged_port_start=0"])?;
    let home = tempfile::tempdir()?;
    prepare(&options, home.path(), &objects(pod.address()))?;
    let config = home.path().join("config");
    let (servers, clients) = (Ca::new()?, Ca::new()?);
    let (certificate, key) = servers.issue("till.example.com", 1)?;
    put(&config, "till", &[("tls.crt", &certificate), ("tls.key", &key)])?;
    let (vault, vault_key) = servers.issue("vault.example.com", 2)?;
    put(&config, "vault", &[("cert", &vault), ("key", &vault_key), ("cacert", &clients.pem)])?;
    let mut control_plane = launch::control_plane(&options, home.path(), bridge.address(1))?;
    wait_until_ready(&mut control_plane, SocketAddr::new(bridge.address(1), PORT_PLAIN_HTTP), "/ready").await?;
    let discovery = SocketAddr::new(bridge.address(1), PORT_SECURE_GRPC);
    let mut agent = start_agent(&options, home.path(), &pod, GATEWAY, discovery)?;
    wait_until_ready(&mut agent, SocketAddr::new(pod.address(), 15021), "/healthz/ready").await?;

    let trusted = home.path().join("servers.pem");
    fs::write(&trusted, &servers.pem)?;
    let edge = Edge { pod: &pod, trusted: &trusted, home: home.path() };
    wait::until("an answer over TLS", CONVERGE, || async { edge.answers("till", None).with_context(|| tail(&agent.log(), 20)) }).await?;
    // The Secret of a server beside it does not exist: neither the listener nor another server waits for it.
    let listeners = pod.run(None, "curl", &["-sS", "http://127.0.0.1:15000/config_dump?resource=dynamic_listeners"])?;
    ensure!(listeners.contains("kubernetes://late") && !listeners.contains("warming_state"), "{listeners}");
    ensure!(edge.answers("late", None).is_err(), "it has no certificate yet");
    let (late, late_key) = servers.issue("late.example.com", 3)?;
    put(&config, "late", &[("tls.crt", &late), ("tls.key", &late_key)])?;
    wait::until("the Secret that came late", CONVERGE, || async { edge.answers("late", None) }).await?;

    // What cannot be used leaves what was there.
    put(&config, "late", &[("tls.crt", "nonsense"), ("tls.key", "nonsense")])?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    edge.answers("late", None).context("the last good certificate")?;

    // Clients show certificates, until theirs is revoked.
    for (name, serial) in [("good", 7), ("bad", 8)] {
        let (certificate, key) = clients.issue(name, serial)?;
        fs::write(home.path().join(format!("{name}.pem")), certificate + &key)?;
    }
    ensure!(edge.answers("vault", None).is_err(), "without a certificate");
    edge.answers("vault", Some("good"))?;
    edge.answers("vault", Some("bad"))?;
    put(&config, "vault", &[("cert", &vault), ("key", &vault_key), ("cacert", &clients.pem), ("crl", &clients.crl(&[8])?)])?;
    wait::until("the revocation", CONVERGE, || async {
        ensure!(edge.answers("vault", Some("bad")).is_err(), "it is still let in");
        Ok(())
    })
    .await?;
    edge.answers("vault", Some("good"))?;
    config_maps(&config, &servers, &clients, &edge).await?;
    staples(&config, &servers, &edge).await?;
    pairs(&config, &servers, &edge).await?;

    rotate(&config, &servers, SocketAddr::new(pod.address(), 443), ROTATIONS).await
}

/// Verifies clients by a ConfigMap of another namespace: replaced, broken, and with a list of revoked certificates.
async fn config_maps(config: &Path, servers: &Ca, clients: &Ca, edge: &Edge<'_>) -> Result<()> {
    let (certificate, key) = servers.issue("counter.example.com", 4)?;
    put(config, "counter", &[("tls.crt", &certificate), ("tls.key", &key)])?;
    let trust = |entries: serde_json::Value| {
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tellers", "namespace": "staff"}, "data": entries,
        });
        write(config, "tellers", &map)
    };
    trust(serde_json::json!({"ca.crt": Ca::new()?.pem}))?;
    wait::until("the server's certificate", CONVERGE, || async { edge.handshake("counter", "").map(drop) }).await?;
    ensure!(edge.answers("counter", Some("good")).is_err(), "it is not of the CA that is trusted");
    trust(serde_json::json!({"ca.crt": clients.pem}))?;
    wait::until("the roots of the ConfigMap", CONVERGE, || async { edge.answers("counter", Some("good")) }).await?;
    edge.answers("counter", Some("bad"))?;
    ensure!(edge.answers("counter", None).is_err(), "without a certificate");
    trust(serde_json::json!({"ca.crt": "nonsense"}))?;
    trust(serde_json::json!({"ca.crt": clients.pem, "ca.crl": clients.crl(&[8])?}))?;
    wait::until("the revocation by the ConfigMap", CONVERGE, || async {
        ensure!(edge.answers("counter", Some("bad")).is_err(), "it is still let in");
        Ok(())
    })
    .await?;
    edge.answers("counter", Some("good"))
}

/// Shows staples, and certificates without one where what is there is of no use.
async fn staples(config: &Path, servers: &Ca, edge: &Edge<'_>) -> Result<()> {
    let shown = |words: &'static str, serial: u64| async move {
        wait::until(words, CONVERGE, || async {
            let said = edge.handshake("stapled", "-status")?;
            let certificate = format!("serial={serial:02X}\n");
            ensure!(said.contains(words) && said.contains(&certificate), "not {words} of {serial}: {said}");
            edge.answers("stapled", None)
        })
        .await
    };
    let put = |serial: u64, of: u64| {
        let (certificate, key) = servers.issue("stapled.example.com", serial)?;
        let staple = servers.staple(&servers.issue("stapled.example.com", of)?.0, of)?;
        put_data(config, "stapled", &[("tls.crt", certificate.as_bytes()), ("tls.key", key.as_bytes()), ("tls.ocsp-staple", &staple)])
    };
    put(0x51, 0x51)?;
    shown("OCSP Response Status: successful", 0x51).await?;
    // The certificate was replaced, and the staple is still that of the one before: Envoy would refuse both.
    put(0x52, 0x51)?;
    shown("OCSP response: no response sent", 0x52).await?;
    put(0x52, 0x52)?;
    shown("OCSP Response Status: successful", 0x52).await
}

/// Shows each client the certificate of the kind that it can verify.
async fn pairs(config: &Path, servers: &Ca, edge: &Edge<'_>) -> Result<()> {
    let (elliptic, rsa) = (servers.issue("pair.example.com", 0x61)?, servers.issue_rsa("pair.example.com", 0x62)?);
    put(config, "pair-ecdsa", &[("tls.crt", &elliptic.0), ("tls.key", &elliptic.1)])?;
    put(config, "pair-rsa", &[("tls.crt", &rsa.0), ("tls.key", &rsa.1)])?;
    for (suites, serial) in [("ECDHE-ECDSA-AES128-GCM-SHA256", "serial=61\n"), ("ECDHE-RSA-AES128-GCM-SHA256", "serial=62\n")] {
        wait::until(suites, CONVERGE, || async {
            let said = edge.handshake("pair", &format!("-tls1_2 -cipher {suites}"))?;
            ensure!(said.contains(serial), "{said}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Replaces the certificate again and again under load: each one shows, and no request fails.
pub(crate) async fn rotate(config: &Path, servers: &Ca, edge: SocketAddr, rotations: u64) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(servers.pem.as_bytes())?)?;
    let client = TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()));
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop, sent) = (client.clone(), Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    request(&client, edge).await?;
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BETWEEN_REQUESTS).await;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for serial in 100..100 + rotations {
        let (certificate, key) = servers.issue("till.example.com", serial)?;
        let expected = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        put(config, "till", &[("tls.crt", &certificate), ("tls.key", &key)])?;
        wait::until("the new certificate", CONVERGE, || async {
            ensure!(request(&client, edge).await? == expected, "the one before");
            Ok(())
        })
        .await?;
    }
    stop.store(true, Ordering::Relaxed);
    for load in load {
        load.await??;
    }
    let sent = sent.load(Ordering::Relaxed);
    ensure!(sent as u64 > rotations, "{sent} requests are too few to show anything");
    println!("{rotations} certificates, {sent} requests, none failed");
    Ok(())
}

/// Sends a request on a connection of its own; returns the server's certificate.
async fn request(client: &TlsConnector, edge: SocketAddr) -> Result<CertificateDer<'static>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = tokio::net::TcpStream::connect(edge).await?;
    let mut stream = client.connect(ServerName::try_from("till.example.com")?, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: till.example.com\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).context("no certificate")?;
    Ok(shown.clone().into_owned())
}

struct Edge<'a> {
    pod: &'a Namespace,
    trusted: &'a Path,
    home: &'a Path,
}

impl Edge<'_> {
    fn answers(&self, name: &str, client: Option<&str>) -> Result<()> {
        let (url, to) = (format!("https://{name}.example.com/"), format!("{name}.example.com:443:{}", self.pod.address()));
        let trusted = self.trusted.display().to_string();
        let certificate = client.map(|client| self.home.join(format!("{client}.pem")).display().to_string());
        let mut arguments = vec!["-sS", "-i", "--max-time", "5", "--cacert", &trusted, "--resolve", &to];
        arguments.extend(certificate.iter().flat_map(|file| ["--cert", file]));
        arguments.push(&url);
        let answer = self.pod.run(None, "curl", &arguments)?;
        ensure!(answer.contains(" 200") && answer.ends_with("from the edge"), "{answer}");
        Ok(())
    }

    /// Returns what openssl says of a handshake, and the serial number of the certificate.
    fn handshake(&self, name: &str, options: &str) -> Result<String> {
        let address = self.pod.address();
        let script = format!(
            "said=$(openssl s_client -connect {address}:443 -servername {name}.example.com {options} </dev/null 2>&1); \
             echo \"$said\"; \
             echo \"$said\" | sed -n '/^Server certificate/,/^-----END/p' | openssl x509 -noout -serial"
        );
        self.pod.run(None, "sh", &["-c", &script])
    }
}

pub(crate) fn put(config: &Path, name: &str, entries: &[(&str, &str)]) -> Result<()> {
    let entries: Vec<_> = entries.iter().map(|(key, text)| (*key, text.as_bytes())).collect();
    put_data(config, name, &entries)
}

/// Writes a Secret into a file of its own, which is replaced as a whole.
fn put_data(config: &Path, name: &str, entries: &[(&str, &[u8])]) -> Result<()> {
    let entries: serde_json::Map<_, _> = entries.iter().map(|(key, bytes)| ((*key).to_owned(), STANDARD.encode(bytes).into())).collect();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": GATEWAY.namespace}, "data": entries,
    });
    write(config, name, &secret)
}

fn write(config: &Path, name: &str, object: &serde_json::Value) -> Result<()> {
    let hidden = config.join(format!(".{name}"));
    fs::write(&hidden, object.to_string())?;
    Ok(fs::rename(hidden, config.join(format!("{name}.yaml")))?)
}

fn objects(gateway: IpAddr) -> String {
    let server = |name: &str, tls: &str| {
        format!("  - {{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: [{name}.example.com], tls: {{{tls}}}}}\n")
    };
    let servers = [
        server("till", "mode: SIMPLE, credentialName: till"),
        server("late", "mode: SIMPLE, credentialName: late"),
        server("vault", "mode: MUTUAL, credentialName: vault"),
        server("counter", "mode: MUTUAL, credentialName: counter, caCertCredentialName: 'configmap://staff/tellers'"),
        server("stapled", "mode: SIMPLE, credentialName: stapled"),
        server("pair", "mode: SIMPLE, credentialNames: [pair-ecdsa, pair-rsa]"),
    ];
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: istio-system}}
---
apiVersion: v1
kind: Service
metadata: {{name: istio-ingressgateway, namespace: istio-system}}
spec: {{clusterIP: 10.96.7.1, selector: {{istio: ingressgateway}}, ports: [{{name: https, port: 443, targetPort: 443}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: gateway-1, namespace: istio-system, labels: {{app: istio-ingressgateway, istio: ingressgateway}}}}
spec: {{serviceAccountName: istio-ingressgateway}}
status: {{podIP: {gateway}, podIPs: [{{ip: {gateway}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: public, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
{}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge, namespace: istio-system}}
spec:
  hosts: ["*"]
  gateways: [public]
  http: [{{directResponse: {{status: 200, body: {{string: from the edge}}}}}}]
"#,
        servers.concat()
    )
}

//! Two meshes, each with a root and a trust domain of its own: their workloads talk by mTLS when each lists the other's root, and each
//! root vouches for the trust domain that it is listed for alone.

use std::{ffi::OsString, fs, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    http_client::{Response, get, get_text},
    load::{Load, Plan},
    mesh::{CLIENT, CONVERGE, Mesh, REVIEWS_V1},
    process::run,
    wait,
    workload::PEER,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

use crate::{
    mesh::{no_failures, options, turn},
    publisher::Publisher,
    revocation::{echoed, serial_of},
    users_ca::Ca,
};

/// Where the west's client takes requests for the east's service.
const EAST_AT: u16 = 9090;
const EAST_HOST: &str = "reviews.east.example:9090";

#[tokio::test(flavor = "multi_thread")]
async fn two_meshes_trust_each_other_and_each_its_own() -> Result<()> {
    let _turn = turn().await?;
    let mut east = Side::start("east.example").await?;
    let west = Side::start("west.example").await?;
    west.know_of(&east)?;
    let ask = async || get(west.mesh.network().socket(CLIENT.host, EAST_AT), EAST_HOST, "/").await;

    // Neither lists the other.
    wait::until("the west to distrust the east", CONVERGE, || refused(&ask)).await?;
    let server = east.mesh.network().socket(REVIEWS_V1.host, 9080);
    let (of_west, unlisted) = (Authority::of(&west.mesh)?, Authority::new("unlisted")?);
    let of_east = Authority::of(&east.mesh)?;
    let client = |domain: &str| format!("spiffe://{domain}/ns/shop/sa/client");
    answered(server, &of_east, &client("east.example")).await.context("one of its own")?;
    ensure!(answered(server, &of_west, &client("west.example")).await.is_err(), "a stranger is let in");

    let own = Load::start(&Plan::new(east.mesh.paths(), 20));
    let (roots_of_east, roots_of_west) = (east.roots()?, west.roots()?);
    west.trust("east.example", &roots_of_east)?;
    east.trust("west.example", &roots_of_west)?;
    wait::until("the two meshes to talk", CONVERGE, || async {
        let response: Response = ask().await?;
        ensure!(response.status == http::StatusCode::OK, "{}: {}", response.status, response.text());
        let peer = response.header(PEER);
        ensure!(peer.contains("URI=spiffe://west.example/ns/shop/sa/client"), "the client is {peer:?}");
        ensure!(peer.contains("By=spiffe://east.example/ns/shop/sa/reviews"), "the server is {peer:?}");
        Ok(())
    })
    .await?;

    // A rotation knows whom they trust by what they acknowledged.
    wait::until("every proxy to be known", CONVERGE, || async {
        let known: serde_json::Value = serde_json::from_str(&get_text(east.mesh.monitoring(), "/debug/rotation").await?)?;
        let connected = known["connected"].as_array().context("nobody is connected")?;
        ensure!(connected.len() == 4 && connected.iter().all(|proxy| proxy["acknowledged"] == known["roots"]), "{known:#}");
        Ok(())
    })
    .await?;

    // Whoever else signs, and whoever else's names the west's CA signs, is refused.
    answered(server, &of_west, &client("west.example")).await.context("one of the west")?;
    answered(server, &of_east, &client("east.example")).await.context("one of the east")?;
    for (authority, domain, what) in [
        (&unlisted, "west.example", "a root that is not listed"),
        (&unlisted, "east.example", "a root that is not listed, for our own trust domain"),
        (&of_west, "east.example", "the west's root for our own trust domain"),
        (&of_west, "north.example", "the west's root for a third trust domain"),
        (&of_east, "west.example", "our own root for the west's trust domain"),
    ] {
        ensure!(answered(server, authority, &client(domain)).await.is_err(), "{what} is let in");
    }
    no_failures(&own.stop().await, &mut east.mesh)?;

    // The list of what our CA revoked is of our own alone: who has a certificate of the west needs none.
    let revoked = serial_of(&east.mesh, &client("east.example")).await?;
    east.revoke(&revoked)?;
    let tcp = east.mesh.tcp();
    wait::until("the revoked client to be refused", CONVERGE, || async {
        ensure!(echoed(tcp).await.is_err(), "it is answered");
        Ok(())
    })
    .await?;
    answered(server, &of_west, &client("west.example")).await.context("one of the west, beside a list of revoked ones")?;

    east.trust_nobody()?;
    wait::until("the west to be a stranger again", CONVERGE, || async {
        ensure!(answered(server, &of_west, &client("west.example")).await.is_err(), "it is let in");
        Ok(())
    })
    .await?;
    fetched_bundles(&mut east, server, &of_west, &roots_of_west).await
}

/// Trusts the west by what it publishes alone: while the publisher is away, and when it publishes another root.
async fn fetched_bundles(east: &mut Side, server: SocketAddr, of_west: &Authority, roots: &str) -> Result<()> {
    let (client, next) = ("spiffe://west.example/ns/shop/sa/client", Authority::new("the west's next root")?);
    let publisher = Publisher::start("127.0.0.1:0".parse()?, &east.web, roots).await?;
    let address = publisher.address();
    east.trust_published("west.example", &publisher.url())?;
    wait::until("the bundle to be trusted", CONVERGE, || async { answered(server, of_west, client).await }).await?;
    ensure!(publisher.answered() > 0, "it was not asked");
    for (authority, identity) in [(&next, client), (of_west, "spiffe://east.example/ns/shop/sa/client")] {
        ensure!(answered(server, authority, identity).await.is_err(), "{identity} is let in");
    }

    drop(publisher);
    let away = "roots of another mesh cannot be fetched";
    let control_plane = &*east.mesh.control_plane();
    wait::until("the publisher to be missed", CONVERGE, || async {
        ensure!(control_plane.log().contains(away), "nothing is said of it");
        Ok(())
    })
    .await?;
    answered(server, of_west, client).await.context("by the last good bundle")?;

    let _publisher = Publisher::start(address, &east.web, &next.certificate).await?;
    wait::until("the next bundle to be trusted", CONVERGE, || async { answered(server, &next, client).await }).await?;
    wait::until("the first one to be forgotten", CONVERGE, || async {
        ensure!(answered(server, of_west, client).await.is_err(), "it is let in");
        Ok(())
    })
    .await
}

async fn refused(ask: &impl AsyncFn() -> Result<Response>) -> Result<()> {
    let response = ask().await?;
    let text = response.text();
    ensure!(text.contains("remote connection failure"), "{}: {text}", response.status);
    Ok(())
}

/// A mesh, and its MeshConfig.
struct Side {
    mesh: Mesh,
    trust_domain: &'static str,
    config: TempDir,
    /// Signs for servers from which it fetches.
    web: Ca,
}

impl Side {
    async fn start(trust_domain: &'static str) -> Result<Self> {
        let config = tempfile::tempdir()?;
        let file = config.path().join("mesh.yaml");
        fs::write(&file, format!("trustDomain: {trust_domain}\n"))?;
        let (web, web_file) = (Ca::new()?, config.path().join("web.pem"));
        fs::write(&web_file, &web.pem)?;
        let arguments: [OsString; 8] = [
            "--multi-root-mesh".into(),
            "true".into(),
            "--meshConfig".into(),
            file.into(),
            "--jwks-ca".into(),
            web_file.into(),
            "--spiffe-bundle-refresh-interval".into(),
            "1s".into(),
        ];
        let mesh = Mesh::start_with(options("1.40", true)?, Loopback::free()?, arguments.into()).await?;
        Ok(Self { mesh, trust_domain, config, web })
    }

    /// Tells this mesh of a service of the other one.
    fn know_of(&self, other: &Self) -> Result<()> {
        let (manifests, address) = (self.mesh.manifests(), other.mesh.network().address(REVIEWS_V1.host));
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: east, namespace: shop}}\nspec:\n  \
             hosts: [reviews.east.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: {EAST_AT}, name: http, protocol: HTTP}}]\n  \
             endpoints: [{{address: {address}, ports: {{http: 9080}}, serviceAccount: reviews, labels: {{security.istio.io/tlsMode: istio}}}}]\n"
        );
        manifests.write("east.yaml", &entry)?;
        let bind = self.mesh.network().address(CLIENT.host);
        let egress = format!(
            "  egress:\n  - port: {{number: {EAST_AT}, protocol: HTTP, name: east}}\n    bind: {bind}\n    captureMode: NONE\n    \
             hosts: [./reviews.east.example]\n"
        );
        let sidecars = manifests.read("sidecars.yaml")?;
        manifests.write("sidecars.yaml", &sidecars.replacen("  egress:\n", &egress, 1))?;
        self.configure(&format!("trustDomainAliases: [{}]\n", other.trust_domain))
    }

    fn roots(&self) -> Result<String> {
        Ok(fs::read_to_string(self.mesh.home().join("ca/root-cert.pem"))?)
    }

    /// Lists these roots for a trust domain, with an entry that is broken before it.
    fn trust(&self, trust_domain: &str, roots: &str) -> Result<()> {
        let roots: String = roots.lines().map(|line| format!("    {line}\n")).collect();
        self.configure(&format!(
            "trustDomainAliases: [{trust_domain}]\ncaCertificates:\n- {{trustDomains: [south.example], pem: nonsense}}\n\
             - trustDomains: [{trust_domain}]\n  pem: |\n{roots}"
        ))
    }

    /// Lists what is published at a URL for a trust domain.
    fn trust_published(&self, trust_domain: &str, url: &str) -> Result<()> {
        self.configure(&format!(
            "trustDomainAliases: [{trust_domain}]\ncaCertificates: [{{trustDomains: [{trust_domain}], spiffeBundleUrl: \"{url}\"}}]\n"
        ))
    }

    fn trust_nobody(&self) -> Result<()> {
        self.configure("")
    }

    fn configure(&self, more: &str) -> Result<()> {
        let draft = self.config.path().join("draft");
        fs::write(&draft, format!("trustDomain: {}\n{more}", self.trust_domain))?;
        Ok(fs::rename(draft, self.config.path().join("mesh.yaml"))?)
    }

    /// Revokes a certificate of this mesh.
    fn revoke(&mut self, serial: &str) -> Result<()> {
        let home = self.mesh.home();
        let (ca, offline) = (home.join("ca").display().to_string(), home.join("offline").display().to_string());
        run(Path::new(env!("CARGO_BIN_EXE_istiod-lite")), &["ca", "crl", "--ca", &ca, "--out", &offline, "--revoke", serial])?;
        fs::copy(home.join("offline/ca-crl.pem"), home.join("ca/new-crl"))?;
        Ok(fs::rename(home.join("ca/new-crl"), home.join("ca/ca-crl.pem"))?)
    }
}

/// Who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Makes one of which nobody knows.
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Returns the CA of a mesh.
    fn of(mesh: &Mesh) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(mesh.home().join("ca").join(file));
        let certificate = read("ca-cert.pem")?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&read("ca-key.pem")?)?)?, certificate })
    }

    /// Issues a certificate for an identity; returns its chain and key.
    fn issue(&self, identity: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        // Without a key usage it is no X.509-SVID, and is refused for that.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), CertificateDer::from_pem_slice(self.certificate.as_bytes())?];
        Ok((chain, PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?))
    }
}

/// Asks a server with a certificate for this identity; fails unless it answers.
async fn answered(server: SocketAddr, authority: &Authority, identity: &str) -> Result<()> {
    let (chain, key) = authority.issue(identity)?;
    let anybody = Arc::new(Anybody);
    let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(anybody).with_client_auth_cert(chain, key)?;
    let exchange = async {
        let stream = TcpStream::connect(server).await?;
        let name = ServerName::from(server.ip());
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await?;
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await?;
        ensure!(answer == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&answer));
        Ok(())
    };
    timeout(CONVERGE, exchange).await?
}

/// Takes whatever certificate the server has: here it is the server that judges.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

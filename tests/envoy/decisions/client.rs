//! Clients that send exactly the bytes that are asked for: over mTLS with an identity, or in plaintext.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent on a TCP connection: as much as tells that it is no TLS.
pub(crate) const HELLO: &[u8] = b"hello, whoever is there";

/// What became of a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The application has it.
    Passes,
    /// A policy denies it.
    Denied,
    /// It is no good request, or its token is none.
    Refused,
    /// There is no connection for it.
    Unconnected,
}

/// The mesh's authority: what servers and clients have from it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The root, as PEM.
    pub(crate) root: String,
}

/// A certificate and its key, as PEM.
pub(crate) struct Credential {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), root })
    }

    /// Issues a certificate for an identity, and for these DNS names.
    pub(crate) fn issue(&self, identity: &str, names: impl IntoIterator<Item = String>) -> Result<Credential> {
        let mut params = CertificateParams::new(names.into_iter().collect::<Vec<_>>())?;
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(format!("spiffe://{identity}"))?));
        let key = KeyPair::generate()?;
        Ok(Credential { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// Clients by their identities.
pub(crate) struct Clients {
    connectors: BTreeMap<String, TlsConnector>,
}

/// What is sent to whom.
pub(crate) struct Message<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: SocketAddr,
    pub(crate) identity: Option<&'a str>,
    pub(crate) server_name: &'a str,
    /// The request; `None`: a TCP connection.
    pub(crate) request: Option<Vec<u8>>,
}

impl Clients {
    /// Makes a client for each of the identities.
    pub(crate) fn new<'a>(authority: &Authority, identities: impl IntoIterator<Item = &'a String>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.root.as_bytes())?)?;
        let roots = Arc::new(roots);
        let mut connectors = BTreeMap::new();
        for identity in identities {
            if connectors.contains_key(identity) {
                continue;
            }
            let Credential { certificate, key } = authority.issue(identity, [])?;
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
            let mut config = ClientConfig::builder().with_root_certificates(Arc::clone(&roots)).with_client_auth_cert(chain, key)?;
            config.alpn_protocols = ["istio-http/1.1", "istio", "http/1.1"].map(Into::into).to_vec();
            connectors.insert(identity.clone(), TlsConnector::from(Arc::new(config)));
        }
        Ok(Self { connectors })
    }

    /// Sends it, and returns what became of it.
    pub(crate) async fn send(&self, message: &Message<'_>) -> Result<Verdict> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((message.from, 0).into())?;
        let exchanged = async {
            let stream = socket.connect(message.to).await?;
            match message.identity {
                None => exchange(stream, message).await,
                Some(identity) => self.exchange_over_tls(identity, stream, message).await,
            }
        };
        let answer = timeout(PATIENCE, exchanged).await.context("no answer")??;
        match &message.request {
            None if answer == b"ok" => Ok(Verdict::Passes),
            None => Ok(Verdict::Denied),
            Some(_) => verdict(&answer),
        }
    }

    async fn exchange_over_tls(&self, identity: &str, stream: TcpStream, message: &Message<'_>) -> Result<Vec<u8>> {
        let connector = self.connectors.get(identity).context("no such client")?;
        let name = ServerName::try_from(message.server_name)?.to_owned();
        // A server that refuses a certificate says so, and closes.
        match connector.connect(name, stream).await {
            Ok(stream) => exchange(stream, message).await,
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// Sends a message and returns what is answered until the end, however that comes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, message: &Message<'_>) -> Result<Vec<u8>> {
    let sent = message.request.as_deref().unwrap_or(HELLO);
    let _ = stream.write_all(sent).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Ok(answer)
}

fn verdict(answer: &[u8]) -> Result<Verdict> {
    let text = String::from_utf8_lossy(answer);
    Ok(match text.split(' ').nth(1) {
        Some("200") => Verdict::Passes,
        Some("403") => Verdict::Denied,
        Some("400" | "401") => Verdict::Refused,
        None if answer.is_empty() => Verdict::Unconnected,
        _ => bail!("an unexpected answer: {text}"),
    })
}

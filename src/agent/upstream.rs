//! Connections to the control plane: TLS that is verified against the mesh's root, and a token that is read anew each time.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use http::{HeaderValue, header::InvalidHeaderValue};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{certificate::WorkloadCertificate, settings::ControlPlane};

/// How long a dial may take, TLS handshake included (contract §2.2).
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the control plane could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file that is needed cannot be read, or holds nothing that can be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server name to verify is not a DNS name or an address.
    #[error("server name {0:?} is neither a DNS name nor an address")]
    ServerName(String),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no connection, or it failed verification.
    #[error("{address}: {source}")]
    Connect {
        /// The address.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// Opens a TLS connection to `address`, with `certificate` as the client's if there is one.
pub(crate) async fn dial(
    discovery: &ControlPlane,
    address: &str,
    certificate: Option<&WorkloadCertificate>,
) -> Result<TlsStream<TcpStream>, Error> {
    let config = client_config(&discovery.root_cert, certificate)?;
    let name = ServerName::try_from(discovery.server_name.clone()).map_err(|_| Error::ServerName(discovery.server_name.clone()))?;
    let connect = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    let failed = |source| Error::Connect { address: address.to_owned(), source };
    match tokio::time::timeout(DIAL_TIMEOUT, connect).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {DIAL_TIMEOUT:?}")))),
    }
}

/// What proves who is calling.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credential {
    /// Sent as `authorization: Bearer`; never shown.
    pub token: Option<Token>,
    /// Presented in the TLS handshake.
    pub certificate: Option<Arc<WorkloadCertificate>>,
}

/// A token; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

/// Reads the token anew. Without a token, or when it cannot be read any more, the certificate `held` by the workload proves who
/// is calling.
pub(crate) async fn credential(discovery: &ControlPlane, held: Option<Arc<WorkloadCertificate>>) -> Result<Credential, Error> {
    match (token(discovery).await, held) {
        (Ok(Some(token)), _) => Ok(Credential { token: Some(token), certificate: None }),
        (Ok(None), held) => Ok(Credential { token: None, certificate: held }),
        (Err(error), Some(held)) => {
            tracing::warn!("calling with the certificate instead of the token: {error}");
            Ok(Credential { token: None, certificate: Some(held) })
        }
        (Err(error), None) => Err(error),
    }
}

async fn token(discovery: &ControlPlane) -> Result<Option<Token>, Error> {
    let Some(path) = &discovery.token_file else { return Ok(None) };
    let refused = |reason: String| Error::File { path: path.display().to_string(), reason };
    let text = tokio::fs::read_to_string(path).await.map_err(|error| refused(error.to_string()))?;
    match text.trim() {
        "" => Err(refused("holds no token".to_owned())),
        token => Ok(Some(Token(token.to_owned()))),
    }
}

// === impl Token ===

impl Token {
    /// Returns the value of the `authorization` header, marked as a secret.
    pub(crate) fn bearer(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

fn client_config(root_cert: &Path, certificate: Option<&WorkloadCertificate>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(root_cert)?);
    let mut config = match certificate {
        Some(certificate) => {
            let (chain, key) = client_identity(certificate)?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let refused = |reason: String| Error::File { path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|error| refused(error.to_string()))?).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn client_identity(certificate: &WorkloadCertificate) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let unusable = |what: &str| Error::File { path: "workload certificate".to_owned(), reason: what.to_owned() };
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unusable("its chain is not PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem().as_bytes()).map_err(|_| unusable("its key is not PEM"))?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(folder: &Path) -> ControlPlane {
        ControlPlane {
            address: "127.0.0.1:1".to_owned(),
            ca_address: "127.0.0.1:1".to_owned(),
            server_name: "istiod.istio-system.svc".to_owned(),
            root_cert: folder.join("root-cert.pem"),
            revocation_list: folder.join("ca-crl.pem"),
            token_file: Some(folder.join("token")),
            delta: true,
        }
    }

    #[tokio::test]
    async fn a_token_is_read_again_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let discovery = discovery(folder.path());
        assert!(token(&discovery).await.unwrap_err().to_string().contains("token: No such file"));
        std::fs::write(folder.path().join("token"), " \n").unwrap();
        assert!(token(&discovery).await.unwrap_err().to_string().contains("holds no token"));
        for text in ["first-jwt\n", "second-jwt"] {
            std::fs::write(folder.path().join("token"), text).unwrap();
            let credential = credential(&discovery, None).await.unwrap();
            assert_eq!(credential.token, Some(Token(text.trim().to_owned())));
            assert!(!format!("{credential:?}").contains(text.trim()), "a token is a secret");
        }
    }

    #[tokio::test]
    async fn an_unusable_root_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let discovery = discovery(folder.path());
        let refusal = async || dial(&discovery, "127.0.0.1:1", None).await.unwrap_err().to_string();
        assert!(refusal().await.contains("root-cert.pem: No such file"));
        std::fs::write(folder.path().join("root-cert.pem"), "hello").unwrap();
        assert!(refusal().await.contains("root-cert.pem: holds no certificate"));
    }
}

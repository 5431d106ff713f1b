//! Clients of the proxy: plain HTTP for its own ports, mutual TLS for its listener.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use rcgen::SanType;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::control_plane::Authority;

/// One kept-alive connection to the listener.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
}

/// Sends one plain HTTP request; status and body.
pub(crate) async fn http(method: &str, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    http_with(method, address, path, "").await
}

/// Does the same with further header lines, each with its end.
pub(crate) async fn http_with(method: &str, address: SocketAddr, path: &str, headers: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

impl Connection {
    /// Connects with a client certificate of that authority.
    pub(crate) async fn open(authority: &Authority, address: SocketAddr) -> Result<Self> {
        let (chain, key) = authority.identity(SanType::URI("spiffe://cluster.local/ns/shop/sa/client".try_into()?))?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?;
        let tcp = TcpStream::connect(address).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("x")?, tcp).await?;
        Ok(Self { stream })
    }

    /// Asks over this connection; the answer must end with `expected`. Whether the connection may be used again.
    pub(crate) async fn ask(&mut self, expected: &str) -> Result<bool> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let mut text = String::new();
        let mut buffer = [0_u8; 4096];
        while !text.ends_with(expected) {
            let read = self.stream.read(&mut buffer).await?;
            ensure!(read > 0, "connection closed after {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
        Ok(!text.to_ascii_lowercase().contains("connection: close"))
    }

    /// Returns the serial number and URI of the certificate that the proxy showed.
    pub(crate) fn peer(&self) -> Result<(String, String)> {
        let certificates = self.stream.get_ref().1.peer_certificates().context("no certificate")?;
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&certificates[0])?;
        let names = leaf.subject_alternative_name()?.context("no alternative name")?;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { anyhow::bail!("not one URI") };
        Ok((leaf.raw_serial_as_string(), uri.to_owned()))
    }
}

/// Takes any server: the tests look at its certificate themselves.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

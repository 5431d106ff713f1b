//! HTTP/1.1 to the application, from the address that is not captured; plaintext, or TLS without verification, as the kubelet does
//! it: whoever answers on the pod's own address is the pod.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, response::Parts};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::agent::capture::rules::{PROXY_SOURCE_V4, PROXY_SOURCE_V6};

/// Connects to the application without being captured.
pub(crate) async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let (socket, source): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, PROXY_SOURCE_V4.into()),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, PROXY_SOURCE_V6.into()),
    };
    // `::6` exists only where capture added it; elsewhere nothing is captured.
    if let Err(error) = socket.bind((source, 0).into())
        && error.kind() != io::ErrorKind::AddrNotAvailable
    {
        return Err(error);
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns the loopback address of the same family.
pub(crate) fn loopback_beside(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Sends a request without a body, and returns the answer with the first `limit` bytes of its body.
pub(crate) async fn exchange(to: SocketAddr, tls: bool, request: Request<Empty<Bytes>>, limit: usize) -> Result<(Parts, Bytes), String> {
    let tcp = dial(to).await.map_err(|error| format!("{to}: {error}"))?;
    if tls {
        let stream = TlsConnector::from(Arc::new(unverified()?)).connect(ServerName::IpAddress(to.ip().into()), tcp).await;
        return send(stream.map_err(|error| format!("{to}: TLS: {error}"))?, request, limit).await;
    }
    send(tcp, request, limit).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    limit: usize,
) -> Result<(Parts, Bytes), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async { beginning_of(sender.send_request(request).await?, limit).await };
    let result = answer.await.map_err(|error| error.to_string());
    driver.abort();
    result
}

async fn beginning_of(response: Response<Incoming>, limit: usize) -> hyper::Result<(Parts, Bytes)> {
    let (parts, mut body) = response.into_parts();
    let mut read = BytesMut::new();
    while read.len() < limit
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data[..data.len().min(limit - read.len())]);
        }
    }
    Ok((parts, read.freeze()))
}

fn unverified() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(config)
}

/// Accepts every certificate; the handshake itself must still be correct.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

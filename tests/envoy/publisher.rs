//! Whoever publishes the roots of a mesh, in the SPIFFE bundle format and by HTTPS.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::users_ca::Ca;

/// A server that answers every request with one bundle, until it is dropped.
pub(crate) struct Publisher {
    address: SocketAddr,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Publishes these roots, in PEM, at an address, with a certificate of `ca`.
    pub(crate) async fn start(address: SocketAddr, ca: &Ca, roots: &str) -> Result<Self> {
        let (certificate, key) = ca.issue(&address.ip().to_string(), 1)?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(address).await?);
        let (address, answered) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
        let (counted, document) = (Arc::clone(&answered), document(roots)?);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
                if stream.write_all(format!("{head}{document}").as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Ok(Self { address, answered, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/bundle", self.address)
    }

    /// Returns how often it has answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn document(roots: &str) -> Result<String> {
    let certificates: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(roots.as_bytes()).collect::<Result<_, _>>().context("roots")?;
    let key = |root: &CertificateDer<'_>| json!({"use": "x509-svid", "x5c": [BASE64_STANDARD.encode(root)]});
    Ok(json!({"keys": certificates.iter().map(key).collect::<Vec<_>>()}).to_string())
}

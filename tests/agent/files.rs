//! Certificates in files: clusters and servers that the control plane gives them get them from the agent.

use std::{fs, net::SocketAddr, sync::Arc};

use anyhow::Result;
use rcgen::SanType;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    LONG,
    client::http,
    control_plane::Authority,
    listener,
    stage::{Stage, envoy},
};

#[tokio::test]
async fn an_upstream_that_wants_certificates_of_files_is_reached_also_when_they_change() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let path = |name: &str| stage.folder.path().join(name).display().to_string();
    let certificate = format!("file-cert:{}~{}", path("client.pem"), path("client-key.pem"));
    let roots = format!("file-root:{}", path("their-root.pem"));
    stage.shared.serve_resource("some", listener::upstream(stage.at(9443), Some((&certificate, &roots))));
    stage.shared.serve_resource("inbound", listener::forwarding(stage.at(8080)));
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait("named the missing files", async || stage.log().contains("their-root.pem: No such file")).await?;

    let first = Authority::new()?;
    let server = serve(&first, stage.at(9443)).await?;
    mount(&stage, &first)?;
    let answered = async || matches!(http("GET", stage.at(8080), "/").await, Ok((200, body)) if body == "over TLS");
    stage.wait("reached", answered).await?;
    server.abort();
    // It lets go of the port when it is gone.
    let _ = server.await;

    let second = Authority::new()?;
    let server = serve(&second, stage.at(9443)).await?;
    mount(&stage, &second)?;
    stage.wait("reached with the new files", answered).await?;
    server.abort();
    Ok(())
}

/// Puts the authority's root and a client's certificate where the control plane says that they are.
fn mount(stage: &Stage, authority: &Authority) -> Result<()> {
    let (chain, key) = authority.identity(SanType::DnsName("client.example".try_into()?))?;
    for (name, contents) in [("client.pem", chain), ("client-key.pem", key), ("their-root.pem", authority.root_pem())] {
        let (new, path) = (stage.folder.path().join(format!("{name}.new")), stage.folder.path().join(name));
        fs::write(&new, contents)?;
        fs::rename(new, path)?;
    }
    Ok(())
}

/// Runs a server of that authority that takes its clients alone.
async fn serve(authority: &Authority, at: SocketAddr) -> Result<JoinHandle<()>> {
    let (chain, key) = authority.identity(SanType::DnsName("shop.example".try_into()?))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.root_pem().as_bytes())?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    let config =
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from_pem_slice(chain.as_bytes())?], PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(at).await?);
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let _ = stream.read(&mut [0; 4096]).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nover TLS").await?;
                stream.shutdown().await
            });
        }
    }))
}

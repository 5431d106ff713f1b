//! A certificate that was revoked: real Envoys refuse its holder, and nobody else.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{
    http_client::get_text,
    load::{Load, Plan},
    mesh::{CLIENT, CONVERGE, Mesh, PODS},
    process::run,
    wait,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::mesh::{no_failures, start, turn};

const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/client";

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_refused_and_nobody_else() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let (tcp, home) = (mesh.tcp(), mesh.home().to_owned());
    echoed(tcp).await.context("before anybody is revoked")?;
    let revoked = serial_of(&mesh, IDENTITY).await?;
    // Through the gateway, which is another workload.
    let others = Load::start(&Plan::new(mesh.paths().into_iter().filter(|path| path.name == "gateway").collect(), 50));

    // Lists that revoke nobody change nothing; each connection of the client's is a handshake between Envoys.
    publish(&mesh, &home, &[]).await?;
    echoed(tcp).await.context("nobody is revoked yet")?;

    publish(&mesh, &home, &[&revoked]).await?;
    wait::until("the revoked workload to be refused", CONVERGE, || async {
        ensure!(echoed(tcp).await.is_err(), "it is answered");
        Ok(())
    })
    .await?;
    // A list that is cut off leaves the last good one: the client is still refused, and nobody else.
    let lists = fs::read_to_string(home.join("ca/ca-crl.pem"))?;
    fs::write(home.join("ca/ca-crl.pem"), &lists[..lists.len() / 2])?;
    wait::until("the control plane to say so", CONVERGE, || {
        let log = mesh.control_plane().log();
        async move {
            ensure!(log.contains("the list of revoked certificates is refused; the one in use stays"), "not in {log}");
            Ok(())
        }
    })
    .await?;
    ensure!(echoed(tcp).await.is_err(), "a broken list lets the revoked workload in again");

    // With a new certificate the workload is let in again: the number was revoked, not the name.
    fs::write(home.join("ca/ca-crl.pem"), lists)?;
    mesh.restart_proxy(CLIENT).await?;
    wait::until("the workload with its new certificate", CONVERGE, || echoed(tcp)).await?;
    no_failures(&others.stop().await, &mut mesh)
}

/// Puts lists with these numbers beside the CA, as one file, and waits until every proxy verifies by them.
async fn publish(mesh: &Mesh, home: &Path, revoked: &[&str]) -> Result<()> {
    let (ca, offline) = (home.join("ca").display().to_string(), home.join("offline").display().to_string());
    let mut arguments = vec!["ca", "crl", "--ca", &ca, "--out", &offline];
    arguments.extend(revoked.iter().flat_map(|serial| ["--revoke", serial]));
    run(Path::new(env!("CARGO_BIN_EXE_istiod-lite")), &arguments)?;
    let lists = BASE64_STANDARD.encode(fs::read(home.join("offline/ca-crl.pem"))?);
    fs::copy(home.join("offline/ca-crl.pem"), home.join("ca/new-crl"))?;
    fs::rename(home.join("ca/new-crl"), home.join("ca/ca-crl.pem"))?;
    wait::until("every Envoy to have the lists", CONVERGE, || async {
        for pod in PODS {
            let secrets = get_text(mesh.network().socket(pod.host, 15000), "/config_dump?resource=dynamic_active_secrets").await?;
            ensure!(secrets.contains(&lists), "{} has other lists", pod.name);
        }
        Ok(())
    })
    .await
}

pub(crate) async fn serial_of(mesh: &Mesh, identity: &str) -> Result<String> {
    let page: serde_json::Value = serde_json::from_str(&get_text(mesh.monitoring(), "/debug/certificates").await?)?;
    let listed = page["certificates"].as_array().context("no list")?;
    let entry = listed.iter().find(|entry| entry["identity"] == identity);
    Ok(entry.and_then(|entry| entry["serial"].as_str()).with_context(|| format!("no {identity} in {page:#}"))?.to_owned())
}

/// Sends a line through the client's sidecar on a connection of its own, and fails unless it comes back.
pub(crate) async fn echoed(target: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    tokio::time::timeout(CONVERGE, stream.read_exact(&mut answer)).await??;
    ensure!(&answer == b"hello", "{answer:?}");
    Ok(())
}

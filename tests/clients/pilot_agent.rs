//! `pilot-agent` gets its certificate and its configuration, becomes ready and carries traffic over mTLS.

use std::{fs, net::SocketAddr};

use anyhow::{Result, anyhow, ensure};
use harness::{
    http_client::get_text,
    launch,
    mesh::{CLIENT, START},
    pilot_agent::{Credentials, PilotAgent, Setup},
    wait,
    workload::PEER,
};

use crate::stage::{Stage, options};

#[tokio::test(flavor = "multi_thread")]
async fn it_carries_traffic_by_delta() -> Result<()> {
    let mut stage = Stage::start(&[]).await?;
    expect_mtls(&stage).await?;
    expect_protocol(&mut stage, "connected to delta upstream XDS server").await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_carries_traffic_by_state_of_the_world() -> Result<()> {
    let mut stage = Stage::start(&[("ISTIO_DELTA_XDS", "false")]).await?;
    expect_mtls(&stage).await?;
    expect_protocol(&mut stage, "connected to upstream XDS server").await
}

/// Checks types that pilot-agent asks for by itself on Envoy's stream: one of them decides whether it is ever ready.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_with_dns_capture_and_dynamic_proxy_config() -> Result<()> {
    for delta in ["true", "false"] {
        let own_types = [
            ("ISTIO_DELTA_XDS", delta),
            ("ISTIO_META_DNS_CAPTURE", "true"),
            ("DNS_PROXY_ADDR", "localhost:0"),
            ("PROXY_CONFIG_XDS_AGENT", "true"),
        ];
        let stage = Stage::start(&own_types).await?;
        expect_mtls(&stage).await?;
    }
    Ok(())
}

/// Checks the one thing that the template can ask for and only Istio's own proxy has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_envoy_lacks_what_peer_metadata_discovery_needs() -> Result<()> {
    let (options, home) = (options()?, tempfile::tempdir()?);
    fs::create_dir(home.path().join("logs"))?;
    launch::ceremony(&options.istiod_lite, home.path())?;
    let (discovery, environment) = (SocketAddr::from(([127, 0, 0, 1], 1)), [("PEER_METADATA_DISCOVERY", "true")]);
    let mut agent = PilotAgent::start(Setup {
        options: &options,
        home: home.path(),
        credentials: Credentials::Ceremony,
        pod: CLIENT,
        address: discovery.ip(),
        discovery,
        environment: &environment,
    })?;
    wait::until("Envoy's refusal", START, || {
        let log = agent.process().log();
        let said = log.lines().any(|line| line.contains("critical") && line.contains("istio.workload.BootstrapExtension"));
        async move { if said { Ok(()) } else { Err(anyhow!("not in\n{log}")) } }
    })
    .await
}

/// Checks mTLS between two sidecars of pilot-agent: each shows the other's identity to the workload, and none refused anything.
async fn expect_mtls(stage: &Stage) -> Result<()> {
    let response = stage.ask().await?;
    let peer = response.header(PEER);
    ensure!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/client"), "the client's certificate was not seen: {peer:?}");
    ensure!(peer.contains("By=spiffe://cluster.local/ns/shop/sa/reviews"), "the server's identity is missing: {peer:?}");
    for agent in [&stage.client, &stage.reviews] {
        let stats = agent.admin().stats().await?;
        let refused: Vec<_> = stats.iter().filter(|(name, count)| name.ends_with("update_rejected") && **count > 0).collect();
        ensure!(refused.is_empty(), "Envoy refused {refused:?}");
    }
    Ok(())
}

async fn expect_protocol(stage: &mut Stage, said: &str) -> Result<()> {
    for agent in [&mut stage.client, &mut stage.reviews] {
        let log = agent.process().log();
        ensure!(log.contains(said), "not {said:?}:\n{log}");
    }
    let monitoring = stage.monitoring();
    wait::until("both proxies to be in sync", START, || async move {
        let status: serde_json::Value = serde_json::from_str(&get_text(monitoring, "/debug/syncz").await?)?;
        let proxies = status.as_array().map(Vec::as_slice).unwrap_or_default();
        let synced = |proxy: &serde_json::Value| {
            ["cluster", "listener", "endpoint", "route"].iter().all(|word| {
                let (sent, acked) = (&proxy[format!("{word}_sent")], &proxy[format!("{word}_acked")]);
                sent.is_string() && sent == acked
            })
        };
        // The server has no routes of its own, so it asks for none.
        let client = proxies.iter().find(|proxy| proxy["proxy"] == "client-1.shop");
        ensure!(proxies.len() == 2 && client.is_some_and(synced), "{status:#}");
        Ok(())
    })
    .await
}

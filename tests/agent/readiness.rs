//! A sidecar is ready when the listeners stand to which its traffic is led, and says what is missing until then.

use std::sync::atomic::Ordering;

use anyhow::Result;
use envoy_types::pb::google::protobuf::Any;

use crate::{
    LONG, listener,
    stage::{Stage, envoy},
};

/// Returns the listeners of a captured sidecar: these, and whether Envoy takes each.
fn listeners(stage: &Stage, those: &[(&str, u16, bool)]) -> Vec<(String, Any)> {
    let some = ("inbound".to_owned(), listener::answering(stage.at(8080), "hello"));
    let named = |(name, port, is_right): &(&str, u16, bool)| (name.to_string(), listener::capturing(name, stage.at(*port), *is_right));
    [some].into_iter().chain(those.iter().map(named)).collect()
}

#[tokio::test]
async fn a_sidecar_is_ready_when_what_takes_its_traffic_stands() -> Result<()> {
    let mut stage = Stage::set(envoy()?, LONG)?;
    stage.interception = "REDIRECT";
    stage.shared.may_be_refused.store(true, Ordering::SeqCst);
    let control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    let says = async |words: &[&str]| {
        let said = stage.unreadiness().await;
        words.iter().all(|word| said.contains(word))
    };
    stage.wait("missing both", async || says(&["missing: virtualOutbound, virtualInbound"]).await).await?;

    // It says all that it has when Envoy comes back.
    let serve_anew = |control_plane, outbound_is_right| {
        drop(control_plane);
        stage.shared.serve_resources(listeners(&stage, &[("virtualInbound", 15006, true), ("virtualOutbound", 15001, outbound_is_right)]));
        stage.start_control_plane()
    };
    let control_plane = serve_anew(control_plane, false)?;
    let named = ["missing: virtualOutbound;", "refused by Envoy: ", "virtualOutbound: ", "no filter chains specified"];
    stage.wait("missing one, with Envoy's words", async || says(&named).await).await?;
    assert!(!stage.is_ready().await);

    let control_plane = serve_anew(control_plane, true)?;
    stage.wait_until_ready().await?;

    // Envoy goes on with a listener whose update it refuses, and so does the pod.
    let refused = stage.refused_updates().await?;
    let _control_plane = serve_anew(control_plane, false)?;
    stage.wait("refused again", async || stage.refused_updates().await.is_ok_and(|now| now > refused)).await?;
    assert!(stage.is_ready().await);
    Ok(())
}

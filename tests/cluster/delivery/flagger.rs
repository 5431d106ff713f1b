//! Flagger with its provider `istio` and its built-in metrics.

use anyhow::{Result, ensure};
use harness::{cluster::Cluster, load::Load, process::Process};
use serde_json::json;

use super::{BAD, BETTER, Delivery, GOOD, NAMESPACE, expect_no_failures, json_of, pods, prometheus_url, release, wait_for_only};

const TOOLS: &str = "flagger";
const APP: &str = "store";
const CANARY: &str = "canary.flagger.app/store";
const PHASE: &str = "{.status.phase}";

/// A good release gets 25 %, 50 % and all; a bad one ends at its first share.
pub(crate) async fn flagger_promotes_and_rolls_back(cluster: &Cluster) -> Result<()> {
    let delivery = Delivery::start(cluster).await?;
    delivery.define(TOOLS).await?;
    let flags = [
        format!("-metrics-server={}", prometheus_url()),
        "-mesh-provider=istio".to_owned(),
        format!("-namespace={NAMESPACE}"),
        "-port=18085".to_owned(),
        "-log-level=info".to_owned(),
    ];
    let mut flagger = delivery.start_program(TOOLS, "flagger", flags.into()).await?;
    cluster
        .apply(
            &json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": APP, "namespace": NAMESPACE, "labels": {"app": APP}}, "spec": pods(APP, GOOD)?,
            })
            .to_string(),
        )
        .await?;
    cluster.apply(&canary().to_string()).await?;
    delivery.wait_until(&mut flagger, CANARY, PHASE, "Initialized").await?;
    let load = delivery.load(APP).await?;
    wait_for_only(&load, "good").await?;

    deploy(cluster, BETTER).await?;
    end_in(&delivery, &mut flagger, "Succeeded").await?;
    wait_for_only(&load, "better").await?;

    deploy(cluster, BAD).await?;
    end_in(&delivery, &mut flagger, "Failed").await?;
    wait_for_only(&load, "better").await?;
    rolled_back(cluster).await?;
    expect_no_failures(&Load::stop(load).await)
}

/// Istio's provider and Flagger's own queries: success of 99 % at least, and a 99th percentile that a busy machine holds.
fn canary() -> serde_json::Value {
    json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": APP, "namespace": NAMESPACE},
        "spec": {
            "provider": "istio",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": APP},
            "progressDeadlineSeconds": 180,
            "service": {"port": 9080, "targetPort": 9080, "portName": "http", "retries": {"attempts": 0}},
            "analysis": {
                "interval": "10s", "threshold": 3, "maxWeight": 50, "stepWeight": 25,
                "metrics": [
                    {"name": "request-success-rate", "thresholdRange": {"min": 99}, "interval": "30s"},
                    {"name": "request-duration", "thresholdRange": {"max": 4000}, "interval": "30s"},
                ],
            },
        },
    })
}

async fn deploy(cluster: &Cluster, args: &str) -> Result<()> {
    cluster.kubectl(&["-n", NAMESPACE, "patch", "deployment", APP, "--type=json", "-p", &release(args)]).await.map(drop)
}

/// Waits until Flagger has seen the release, and then for its end.
async fn end_in(delivery: &Delivery<'_>, flagger: &mut Process, phase: &str) -> Result<()> {
    delivery.wait_until(flagger, CANARY, PHASE, "Progressing").await?;
    delivery.wait_until(flagger, CANARY, PHASE, phase).await
}

/// Checks that all traffic is routed to the primary, by what Flagger wrote.
async fn rolled_back(cluster: &Cluster) -> Result<()> {
    let written = json_of(cluster, "virtualservice/store").await?;
    let routes = &written["spec"]["http"][0]["route"];
    ensure!(routes[0]["weight"] == 100 && routes[1]["weight"] == 0, "{routes}");
    Ok(())
}

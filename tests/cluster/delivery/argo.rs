//! Argo Rollouts with traffic routing by Istio: by hosts, and by subsets. At promotion it changes selectors (or a subset's labels) and
//! weights within one second.

use anyhow::{Result, ensure};
use harness::{cluster::Cluster, load::Load, process::Process};
use serde_json::{Value, json};

use super::{BAD, BETTER, Delivery, GOOD, NAMESPACE, expect_no_failures, json_of, pods, prometheus_url, release, wait_for_only};

const TOOLS: &str = "argo-rollouts";
const PHASE: &str = "{.status.phase}";
/// By hosts: two Services whose selectors Argo changes.
const HOSTS: &str = "store";
/// By subsets: one Service, and a DestinationRule whose subsets' labels Argo changes.
const SUBSETS: &str = "stall";

/// A good release gets 25 %, 50 % and all, a bad one ends at its first share; once by hosts, once by subsets.
pub(crate) async fn argo_rollouts_promotes_and_rolls_back(cluster: &Cluster) -> Result<()> {
    let delivery = Delivery::start(cluster).await?;
    delivery.define(TOOLS).await?;
    let flags =
        ["--leader-elect=false", "--metricsPort=18086", "--healthzPort=18087", "--loglevel=info", "--rollout-resync=10"].map(str::to_owned);
    let mut argo = delivery.start_program(TOOLS, "rollouts-controller", flags.into()).await?;
    for object in [analysis(), service("store"), service("store-canary"), service(SUBSETS), by_hosts(), by_subsets(), subsets()] {
        cluster.apply(&object.to_string()).await?;
    }
    for (app, routing, watched) in [(HOSTS, routing_by_hosts(), "store-canary"), (SUBSETS, routing_by_subsets(), SUBSETS)] {
        cluster.apply(&rollout(app, &routing, watched)?.to_string()).await?;
        goes_both_ways(&delivery, &mut argo, app).await?;
    }
    Ok(())
}

async fn goes_both_ways(delivery: &Delivery<'_>, argo: &mut Process, app: &str) -> Result<()> {
    let (cluster, object) = (delivery.cluster, format!("rollout.argoproj.io/{app}"));
    delivery.wait_until(argo, &object, PHASE, "Healthy").await?;
    let load = delivery.load(app).await?;
    wait_for_only(&load, "good").await?;

    deploy(cluster, &object, BETTER).await?;
    delivery.wait_until(argo, &object, PHASE, "Progressing").await?;
    delivery.wait_until(argo, &object, PHASE, "Healthy").await?;
    wait_for_only(&load, "better").await?;

    deploy(cluster, &object, BAD).await?;
    delivery.wait_until(argo, &object, PHASE, "Degraded").await?;
    wait_for_only(&load, "better").await?;
    let routes = json_of(cluster, &format!("virtualservice/{app}")).await?["spec"]["http"][0]["route"].take();
    ensure!(routes[0]["weight"] == 100 && routes[1]["weight"].as_i64().unwrap_or_default() == 0, "{routes}");
    expect_no_failures(&Load::stop(load).await)
}

async fn deploy(cluster: &Cluster, object: &str, args: &str) -> Result<()> {
    cluster.kubectl(&["-n", NAMESPACE, "patch", object, "--type=json", "-p", &release(args)]).await.map(drop)
}

/// The template of Argo's documentation, with shorter intervals.
fn analysis() -> Value {
    let of = |further: &str| {
        format!("sum(irate(istio_requests_total{{reporter=\"source\",destination_service=~\"{{{{args.service-name}}}}\"{further}}}[30s]))")
    };
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "AnalysisTemplate",
        "metadata": {"name": "success-rate", "namespace": NAMESPACE},
        "spec": {
            "args": [{"name": "service-name"}],
            "metrics": [{
                "name": "success-rate", "interval": "5s", "count": 3, "initialDelay": "10s", "successCondition": "result[0] >= 0.95",
                "provider": {"prometheus": {
                    "address": prometheus_url(),
                    "query": format!("{} / {}", of(",response_code!~\"5.*\""), of("")),
                }},
            }],
        },
    })
}

fn service(name: &str) -> Value {
    let app = name.trim_end_matches("-canary");
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 9080, "targetPort": 9080}]},
    })
}

fn virtual_service(app: &str, stable: &Value, canary: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": app, "namespace": NAMESPACE},
        "spec": {"hosts": [app], "http": [{
            "name": "primary", "retries": {"attempts": 0},
            "route": [{"destination": stable, "weight": 100}, {"destination": canary, "weight": 0}],
        }]},
    })
}

fn by_hosts() -> Value {
    virtual_service(HOSTS, &json!({"host": "store"}), &json!({"host": "store-canary"}))
}

fn by_subsets() -> Value {
    virtual_service(SUBSETS, &json!({"host": SUBSETS, "subset": "stable"}), &json!({"host": SUBSETS, "subset": "canary"}))
}

fn subsets() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": SUBSETS, "namespace": NAMESPACE},
        "spec": {"host": SUBSETS, "subsets": [{"name": "stable", "labels": {"app": SUBSETS}}, {"name": "canary", "labels": {"app": SUBSETS}}]},
    })
}

fn routing_by_hosts() -> Value {
    json!({
        "canaryService": "store-canary", "stableService": "store",
        "trafficRouting": {"istio": {"virtualService": {"name": HOSTS, "routes": ["primary"]}}},
    })
}

fn routing_by_subsets() -> Value {
    json!({"trafficRouting": {"istio": {
        "virtualService": {"name": SUBSETS, "routes": ["primary"]},
        "destinationRule": {"name": SUBSETS, "canarySubsetName": "canary", "stableSubsetName": "stable"},
    }}})
}

/// Returns a Rollout that analyses what goes to a Service before each next share.
fn rollout(app: &str, routing: &Value, watched: &str) -> Result<Value> {
    let service = format!("{watched}.{NAMESPACE}.svc.cluster.local");
    let judged = json!({"analysis": {
        "templates": [{"templateName": "success-rate"}], "args": [{"name": "service-name", "value": service}],
    }});
    let mut canary = routing.clone();
    canary["steps"] = json!([{"setWeight": 25}, judged, {"setWeight": 50}, judged]);
    let mut spec = pods(app, GOOD)?;
    spec["strategy"] = json!({"canary": canary});
    Ok(json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": app, "namespace": NAMESPACE}, "spec": spec,
    }))
}

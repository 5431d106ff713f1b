//! Objects of every kind arrive at the proxies, change, and go again.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use harness::{admin::Admin, kubernetes::Object, wait};
use serde_json::{Value, json};

use crate::{
    objects::{endpoint_slice, istio, pod, service},
    outage::external,
    shop::{PATIENCE, Shop},
};

/// Objects, and what an Envoy has if and only if they are there.
struct Arrival {
    objects: Vec<Value>,
    envoy: Admin,
    seen: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_kind_arrive_and_go() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    let arrivals = arrivals(&shop);
    for Arrival { objects, envoy, seen } in &arrivals {
        shop.wait_for_config(*envoy, seen, false).await.with_context(|| format!("before {objects:?}"))?;
        shop.api.put(objects).await?;
        shop.wait_for_config(*envoy, seen, true).await.with_context(|| format!("with {objects:?}"))?;
    }
    a_patch_of_each_part_arrives(&shop).await?;
    for Arrival { objects, envoy, seen } in arrivals.iter().rev() {
        for object in objects.iter().rev() {
            shop.api.delete(name_of(object)).await?;
        }
        shop.wait_for_config(*envoy, seen, false).await.with_context(|| format!("without {objects:?}"))?;
    }
    for counted in [
        r#"pilot_k8s_cfg_events{type="VirtualService",event="delete"}"#,
        r#"pilot_k8s_reg_events{type="Services",event="delete"}"#,
        r#"pilot_k8s_reg_events{type="EndpointSlice",event="delete"}"#,
        r#"pilot_k8s_reg_events{type="Pods",event="delete"}"#,
    ] {
        shop.wait_for_metric(counted).await?;
    }
    traffic.judge(&mut shop).await?;
    Ok(())
}

/// Returns the steps of the arrival, each of which builds on those before it.
fn arrivals(shop: &Shop) -> Vec<Arrival> {
    let (client, gateway) = (shop.client(), shop.gateway());
    let arrival = |object, envoy, seen| Arrival { objects: vec![object], envoy, seen };
    let extra = "extra.shop.svc.cluster.local";
    let address = IpAddr::from([192, 0, 2, 33]);
    let labels = json!({ "app": "extra", "track": "canary", "security.istio.io/tlsMode": "istio" });
    let slice = endpoint_slice("shop", "extra", "extra", (address, 8081).into(), "extra-1");
    let mut slice_without_pod = endpoint_slice("shop", "extra-external", "extra", ([192, 0, 2, 34], 8081).into(), "");
    slice_without_pod["endpoints"][0]["targetRef"] = Value::Null;
    let vms = json!({
        "hosts": ["vms.example"], "location": "MESH_INTERNAL", "resolution": "STATIC",
        "ports": [{ "number": 7070, "name": "http", "protocol": "HTTP" }], "workloadSelector": { "labels": { "app": "vm" } },
    });
    let second = json!({
        "hosts": ["second.example"], "gateways": ["shop/second"], "http": [{ "route": [{ "destination": { "host": extra } }] }],
    });
    let server = json!({
        "port": { "number": 8080, "name": "http", "protocol": "HTTP" }, "bind": shop.gateway().address().ip(), "hosts": ["second.example"],
    });
    let in_version = |object: Value, version: &str| {
        let mut object = object;
        object["apiVersion"] = json!(format!("networking.istio.io/{version}"));
        object
    };
    vec![
        arrival(service("shop", "extra", &json!({ "app": "extra" }), 7070, &json!("http")), client, "outbound|7070||extra.shop"),
        arrival(slice_without_pod, client, "192.0.2.34"),
        // An endpoint that names a pod waits for it.
        Arrival { objects: vec![slice, pod("shop", "extra-1", "default", &labels, address)], envoy: client, seen: MUTUAL },
        arrival(
            istio(
                "DestinationRule",
                "extra",
                &json!({ "host": extra, "subsets": [{ "name": "canary", "labels": { "track": "canary" } }] }),
            ),
            client,
            "outbound|7070|canary|extra.shop",
        ),
        arrival(
            istio(
                "VirtualService",
                "extra",
                &json!({ "hosts": [extra], "http": [{
                    "match": [{ "uri": { "prefix": "/only-canary" } }],
                    "route": [{ "destination": { "host": extra, "subset": "canary" } }],
                }] }),
            ),
            client,
            "/only-canary",
        ),
        arrival(external("outside"), client, "outbound|7070||outside.example"),
        arrival(in_version(external("older"), "v1beta1"), client, "outbound|7070||older.example"),
        arrival(in_version(external("oldest"), "v1alpha3"), client, "outbound|7070||oldest.example"),
        arrival(istio("ServiceEntry", "vms", &vms), client, "outbound|7070||vms.example"),
        arrival(istio("WorkloadEntry", "vm-1", &json!({ "address": "192.0.2.44", "labels": { "app": "vm" } })), client, "192.0.2.44"),
        // A route that waits for its gateway.
        Arrival {
            objects: vec![
                istio("VirtualService", "second", &second),
                istio("Gateway", "second", &json!({ "selector": { "istio": "ingressgateway" }, "servers": [server] })),
            ],
            envoy: gateway,
            seen: "second.example",
        },
        arrival(
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "istio", "namespace": "istio-system" },
                "data": { "mesh": "connectTimeout: 7s\n" },
            }),
            client,
            r#""connect_timeout":"7s""#,
        ),
    ]
}

/// An endpoint that takes mutual TLS.
const MUTUAL: &str = r#""envoy.transport_socket_match":{"tlsMode":"istio"}"#;

async fn a_patch_of_each_part_arrives(shop: &Shop) -> Result<()> {
    let client = shop.client();
    // A Node's label is the place of the endpoints on it.
    let node = Object { api_version: "v1", kind: "Node", namespace: "", name: "laptop" };
    shop.api.patch(node, &json!({ "metadata": { "labels": { "topology.kubernetes.io/region": "abroad" } } })).await?;
    shop.wait_for_config(client, r#""region":"abroad""#, true).await?;
    // A pod that changes its labels leaves the subset.
    let pod = Object { api_version: "v1", kind: "Pod", namespace: "shop", name: "extra-1" };
    shop.api.patch(pod, &json!({ "metadata": { "labels": { "security.istio.io/tlsMode": null } } })).await?;
    shop.wait_for_config(client, MUTUAL, false).await?;
    shop.api.patch(pod, &json!({ "metadata": { "labels": { "security.istio.io/tlsMode": "istio" } } })).await?;
    shop.wait_for_config(client, MUTUAL, true).await?;
    // Who takes plain text only is not asked for more.
    let plain = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": { "name": "extra", "namespace": "shop" },
        "spec": { "selector": { "matchLabels": { "app": "extra" } }, "mtls": { "mode": "DISABLE" } },
    });
    shop.api.put(std::slice::from_ref(&plain)).await?;
    shop.wait_for_config(client, MUTUAL, false).await?;
    shop.api.delete(name_of(&plain)).await?;
    shop.wait_for_config(client, MUTUAL, true).await?;
    // The client's Sidecar says on which ports it reaches others.
    let sidecar = Object { api_version: "networking.istio.io/v1", kind: "Sidecar", namespace: "shop", name: "client" };
    let mut egress = shop.api.get(sidecar).await?["spec"]["egress"].clone();
    egress[1]["port"]["number"] = json!(7071);
    shop.api.patch(sidecar, &json!({ "spec": { "egress": egress } })).await?;
    wait_for_others(shop, false).await?;
    egress[1]["port"]["number"] = json!(7070);
    shop.api.patch(sidecar, &json!({ "spec": { "egress": egress } })).await?;
    wait_for_others(shop, true).await?;
    shop.wait_for_config(client, MUTUAL, true).await
}

/// Waits until the client knows the services of port 7070, or no longer. Its configuration would name them as long as the
/// listener that led to them drains.
async fn wait_for_others(shop: &Shop, there: bool) -> Result<()> {
    let client = shop.client();
    wait::until(&format!("services of port 7070: {there}"), PATIENCE, || async move {
        let clusters = client.clusters().await?;
        ensure!(clusters.iter().any(|cluster| cluster.starts_with("outbound|7070|")) == there, "{clusters:?}");
        Ok(())
    })
    .await
}

fn name_of(object: &Value) -> Object<'_> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    Object { api_version: text("/apiVersion"), kind: text("/kind"), namespace: text("/metadata/namespace"), name: text("/metadata/name") }
}

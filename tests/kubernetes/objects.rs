//! What the API server is given: a shop with two versions of `reviews`, and the rights of the control plane.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use harness::tools;
use serde::Deserialize;
use serde_json::{Value, json};

/// The user that the control plane asks as.
pub(crate) const USER: &str = "istiod-lite";

/// Returns the rights of `manifests/base` for [`USER`], but for reading the resources of `without`. Namespace
/// `istio-system` must be there.
pub(crate) fn rights(without: &[&str]) -> Result<Vec<Value>> {
    let mut all = documents("manifests/base/rbac.yaml")?;
    for object in &mut all {
        if object.get("subjects").is_some() {
            object["subjects"] = json!([{ "kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io" }]);
        }
        for rule in object.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(resources) = rule.get_mut("resources").and_then(Value::as_array_mut) {
                resources.retain(|resource| !without.iter().any(|name| resource == name));
            }
        }
    }
    Ok(all)
}

/// Returns the definitions of `manifests/crds`.
pub(crate) fn definitions() -> Result<Vec<Value>> {
    let kustomization = documents("manifests/crds/kustomization.yaml")?;
    let files = kustomization.iter().flat_map(|document| document["resources"].as_array().into_iter().flatten());
    let mut all = Vec::new();
    for file in files.filter_map(Value::as_str) {
        all.extend(documents(&format!("manifests/crds/{file}"))?);
    }
    Ok(all)
}

pub(crate) fn documents(file: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(tools::project().join(file)).with_context(|| file.to_owned())?;
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
    documents.collect::<Result<Vec<_>, _>>().with_context(|| file.to_owned())
}

/// Where the shop's parts are on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) gateway: IpAddr,
    pub(crate) client: IpAddr,
    /// The two versions, on an address that Kubernetes accepts for an endpoint, so without a sidecar each.
    pub(crate) reviews: [SocketAddr; 2],
}

/// Returns all objects of the shop, of which v1 gets every request. Namespaces `shop` and `istio-system` must be there.
pub(crate) fn shop(places: Places) -> Vec<Value> {
    let mut all = vec![
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "laptop", "labels": {
            "topology.kubernetes.io/region": "home", "topology.kubernetes.io/zone": "desk" } } }),
        account("istio-system", "istio-ingressgateway"),
        account("shop", "client"),
        account("shop", "reviews"),
        service("istio-system", "istio-ingressgateway", &json!({ "istio": "ingressgateway" }), 8080, &json!(8080)),
        service("shop", "reviews", &json!({ "app": "reviews" }), 9080, &json!("http")),
        pod(
            "istio-system",
            "gateway-1",
            "istio-ingressgateway",
            &json!({ "app": "istio-ingressgateway", "istio": "ingressgateway" }),
            places.gateway,
        ),
        pod("shop", "client-1", "client", &json!({ "app": "client" }), places.client),
    ];
    for (version, address) in ["v1", "v2"].into_iter().zip(places.reviews) {
        let name = format!("reviews-{version}-1");
        all.push(pod("shop", &name, "reviews", &json!({ "app": "reviews", "version": version }), address.ip()));
        all.push(endpoint_slice("shop", &format!("reviews-{version}"), "reviews", address, &name));
    }
    all.extend([destination_rule(), gateway(places.gateway), virtual_service(100, 0), egress(places.client)]);
    all
}

/// Returns the routes of `reviews` for the gateway and inside the mesh, split between v1 and v2.
pub(crate) fn virtual_service(v1: u32, v2: u32) -> Value {
    let to = |subset: &str, weight: u32| json!({ "destination": { "host": "reviews.shop.svc.cluster.local", "subset": subset, "port": { "number": 9080 } }, "weight": weight });
    istio(
        "VirtualService",
        "reviews",
        &json!({
            "hosts": ["reviews.shop.svc.cluster.local", "shop.example.com"],
            "gateways": ["shop/public", "mesh"],
            "http": [{ "retries": { "attempts": 0 }, "route": [to("v1", v1), to("v2", v2)] }],
        }),
    )
}

/// Returns an object of `networking.istio.io/v1` in namespace `shop`.
pub(crate) fn istio(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": { "name": name, "namespace": "shop" }, "spec": spec })
}

/// Returns a Service with one HTTP port.
pub(crate) fn service(namespace: &str, name: &str, selector: &Value, port: u16, target: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": selector, "ports": [{ "name": "http", "port": port, "targetPort": target }] },
    })
}

/// Returns a running pod on node `laptop`.
pub(crate) fn pod(namespace: &str, name: &str, account: &str, labels: &Value, address: IpAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": {
            "serviceAccountName": account, "nodeName": "laptop",
            "containers": [{ "name": "app", "image": "app.invalid/app:1" }],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// Returns one ready endpoint of a Service with a port `http`.
pub(crate) fn endpoint_slice(namespace: &str, name: &str, service: &str, address: SocketAddr, pod: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": namespace, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": address.port(), "protocol": "TCP" }],
        "endpoints": [{
            "addresses": [address.ip()], "nodeName": "laptop", "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "name": pod, "namespace": namespace },
        }],
    })
}

fn account(namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } })
}

fn destination_rule() -> Value {
    let subset = |version: &str| json!({ "name": version, "labels": { "version": version } });
    istio("DestinationRule", "reviews", &json!({ "host": "reviews.shop.svc.cluster.local", "subsets": [subset("v1"), subset("v2")] }))
}

fn gateway(address: IpAddr) -> Value {
    let server = json!({
        "port": { "number": 8080, "name": "http", "protocol": "HTTP" }, "bind": address, "hosts": ["shop.example.com"],
    });
    istio("Gateway", "public", &json!({ "selector": { "istio": "ingressgateway" }, "servers": [server] }))
}

/// Returns a Sidecar for interception NONE: without root there is no capture, so the client's proxy binds the port that
/// it serves, and sees all hosts of its namespace.
fn egress(client: IpAddr) -> Value {
    let reviews = json!({
        "port": { "number": 9080, "protocol": "HTTP", "name": "http" }, "bind": client, "captureMode": "NONE",
        "hosts": ["./reviews.shop.svc.cluster.local"],
    });
    let others = json!({
        "port": { "number": 7070, "protocol": "HTTP", "name": "others" }, "bind": client, "captureMode": "NONE", "hosts": ["*/*"],
    });
    istio("Sidecar", "client", &json!({ "workloadSelector": { "labels": { "app": "client" } }, "egress": [reviews, others] }))
}

//! Definitions of Istio's kinds that accept any content, so that what a stricter definition would refuse reaches the
//! control plane.

use serde_json::{Value, json};

/// Group, kind, plural, and the served versions, the stored one first.
const KINDS: &[(&str, &str, &str, &[&str])] = &[
    ("networking.istio.io", "DestinationRule", "destinationrules", &["v1", "v1beta1", "v1alpha3"]),
    ("networking.istio.io", "EnvoyFilter", "envoyfilters", &["v1alpha3"]),
    ("networking.istio.io", "Gateway", "gateways", &["v1", "v1beta1", "v1alpha3"]),
    ("networking.istio.io", "ProxyConfig", "proxyconfigs", &["v1beta1"]),
    ("networking.istio.io", "ServiceEntry", "serviceentries", &["v1", "v1beta1", "v1alpha3"]),
    ("networking.istio.io", "Sidecar", "sidecars", &["v1", "v1beta1", "v1alpha3"]),
    ("networking.istio.io", "VirtualService", "virtualservices", &["v1", "v1beta1", "v1alpha3"]),
    ("networking.istio.io", "WorkloadEntry", "workloadentries", &["v1", "v1beta1", "v1alpha3"]),
    ("networking.istio.io", "WorkloadGroup", "workloadgroups", &["v1", "v1beta1", "v1alpha3"]),
    ("security.istio.io", "AuthorizationPolicy", "authorizationpolicies", &["v1", "v1beta1"]),
    ("security.istio.io", "PeerAuthentication", "peerauthentications", &["v1", "v1beta1"]),
    ("security.istio.io", "RequestAuthentication", "requestauthentications", &["v1", "v1beta1"]),
    ("telemetry.istio.io", "Telemetry", "telemetries", &["v1", "v1alpha1"]),
    ("istiod-lite.io", "RateLimitPolicy", "ratelimitpolicies", &["v1alpha1"]),
    ("extensions.istio.io", "TrafficExtension", "trafficextensions", &["v1alpha1"]),
    ("extensions.istio.io", "WasmPlugin", "wasmplugins", &["v1alpha1"]),
];

/// Returns the definitions of all of Istio's kinds.
pub fn istio() -> Vec<Value> {
    KINDS.iter().map(|(group, kind, plural, versions)| definition(group, kind, plural, versions)).collect()
}

/// Returns the definition of one of Istio's kinds, such as `VirtualService`.
pub fn of_kind(kind: &str) -> Option<Value> {
    let (group, kind, plural, versions) = KINDS.iter().find(|(_, name, ..)| *name == kind)?;
    Some(definition(group, kind, plural, versions))
}

/// Returns a namespaced kind with a status of its own, whose content nobody checks.
fn definition(group: &str, kind: &str, plural: &str, versions: &[&str]) -> Value {
    let version = |(index, name): (usize, &&str)| {
        json!({
            "name": name,
            "served": true,
            "storage": index == 0,
            "subresources": { "status": {} },
            "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": { "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase() },
            "versions": versions.iter().enumerate().map(version).collect::<Vec<_>>(),
        },
    })
}

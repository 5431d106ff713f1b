//! Reads a Telemetry (contract §6.8).

use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::istio::{AccessLogging, PolicyTarget, Telemetry, WorkloadMode};

impl Read for Telemetry {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.unsupported("tracing");
            fields.unsupported("metrics");
            Self { target: PolicyTarget::of(fields), access_logging: fields.get("accessLogging") }
        })
    }
}

impl Read for AccessLogging {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            mode: mode(fields),
            providers: providers(fields),
            disabled: fields.get("disabled"),
            filter: fields.with("filter", |node| node.message(|fields| fields.get("expression"))),
        })
    }
}

/// Reads `match: {mode: …}`.
fn mode(fields: &Fields<'_>) -> WorkloadMode {
    fields.with("match", |node| node.message(|fields| fields.get("mode"))).unwrap_or_default()
}

impl Read for WorkloadMode {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("CLIENT_AND_SERVER", Self::ClientAndServer), ("CLIENT", Self::Client), ("SERVER", Self::Server)])
    }
}

/// Reads `providers: [{name: …}]`.
fn providers(fields: &Fields<'_>) -> Vec<SmolStr> {
    let named: Vec<ProviderRef> = fields.get("providers");
    named.into_iter().map(|ProviderRef(name)| name).collect()
}

/// `providers[]`
struct ProviderRef(SmolStr);

impl Read for ProviderRef {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let name: SmolStr = fields.get("name");
            if name.is_empty() {
                fields.refuse("name", "is missing");
            }
            Self(name)
        })
    }
}

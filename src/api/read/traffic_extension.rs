//! Reads TrafficExtension and WasmPlugin (contract §6.8).

use serde_json::Value;
use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::istio::{
    EnvironmentVariable, ExtensionCode, ExtensionPhase, FailStrategy, Placement, PolicyTarget, PullPolicy, TrafficExtension,
    TrafficSelector, WasmModule, WasmPlugin, WasmType, WorkloadMode,
};

impl Read for TrafficExtension {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let given = [fields.has("wasm"), fields.has("lua")];
            if given[0] == given[1] {
                fields.error("exactly one of wasm and lua must be set");
            }
            let wasm = fields.with("wasm", |node| node.message(module)).map(ExtensionCode::Wasm);
            let lua = fields.with("lua", |node| node.message(|fields| fields.get("inlineCode"))).map(ExtensionCode::Lua);
            Self { target: PolicyTarget::of(fields), placement: placement(fields), code: wasm.or(lua) }
        })
    }
}

impl Read for WasmPlugin {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { target: PolicyTarget::of(fields), placement: placement(fields), module: module(fields) })
    }
}

fn placement(fields: &Fields<'_>) -> Placement {
    Placement { phase: fields.get("phase"), priority: fields.opt("priority"), selectors: fields.get("match") }
}

impl Read for ExtensionPhase {
    fn read(node: Node<'_>) -> Option<Self> {
        // Both kinds' names of the default are taken by both.
        node.one_of_numbered(&[
            ("UNSPECIFIED", 0, Self::Unspecified),
            ("UNSPECIFIED_PHASE", 0, Self::Unspecified),
            ("AUTHN", 1, Self::Authn),
            ("AUTHZ", 2, Self::Authz),
            ("STATS", 3, Self::Stats),
        ])
    }
}

impl Read for TrafficSelector {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let ports: Vec<PortNumber> = fields.get("ports");
            Self {
                mode: fields.with("mode", mode).unwrap_or_default(),
                ports: ports.into_iter().map(|PortNumber(number)| number).collect(),
            }
        })
    }
}

fn mode(node: Node<'_>) -> Option<WorkloadMode> {
    node.one_of(&[
        ("UNDEFINED", WorkloadMode::ClientAndServer),
        ("CLIENT", WorkloadMode::Client),
        ("SERVER", WorkloadMode::Server),
        ("CLIENT_AND_SERVER", WorkloadMode::ClientAndServer),
    ])
}

/// `{number: 80}`
struct PortNumber(u32);

impl Read for PortNumber {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self(fields.get("number")))
    }
}

fn module(fields: &Fields<'_>) -> WasmModule {
    fields.unsupported("verificationKey");
    WasmModule {
        url: fields.get("url"),
        sha256: fields.get("sha256"),
        pull_policy: fields.get("imagePullPolicy"),
        pull_secret: fields.get("imagePullSecret"),
        config: fields.with("pluginConfig", json_text),
        name: fields.get("pluginName"),
        fail_strategy: fields.get("failStrategy"),
        environment: fields.with("vmConfig", |node| node.message(|fields| fields.get("env"))).unwrap_or_default(),
        side: fields.get("type"),
        refused: false,
    }
}

impl Read for PullPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("UNSPECIFIED_POLICY", Self::Unspecified), ("IfNotPresent", Self::IfNotPresent), ("Always", Self::Always)])
    }
}

impl Read for FailStrategy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("FAIL_CLOSE", Self::Close), ("FAIL_OPEN", Self::Open), ("FAIL_RELOAD", Self::Reload)])
    }
}

impl Read for WasmType {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("UNSPECIFIED_PLUGIN_TYPE", Self::Http), ("HTTP", Self::Http), ("NETWORK", Self::Network)])
    }
}

impl Read for EnvironmentVariable {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let value: SmolStr = fields.get("value");
            let of_proxy = fields.with("valueFrom", |node| node.one_of(&[("INLINE", false), ("HOST", true)])).unwrap_or_default();
            let is_contradictory = of_proxy && !value.is_empty();
            Self { name: fields.get("name"), value: (!of_proxy).then_some(value), is_contradictory }
        })
    }
}

/// Reads any map as the text that the module is handed.
fn json_text(node: Node<'_>) -> Option<SmolStr> {
    match node.value {
        Value::Object(fields) if fields.is_empty() => None,
        Value::Object(_) => Some(node.value.to_string().into()),
        _ => {
            node.wrong("a map");
            None
        }
    }
}

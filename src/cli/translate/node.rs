//! What an injected proxy says about itself in its first request, from its pod: as its agent makes it.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, anyhow};
use envoy_types::pb::{
    envoy::config::core::v3::{Extension, Node},
    google::protobuf::{ListValue, Struct, Value as Field, value::Kind as FieldKind},
};
use serde_json::{Value, json};

use crate::{
    agent::{
        bootstrap,
        settings::{Role, Settings as AgentSettings},
    },
    api::{Kind, Location, yaml},
    cli::agent::settings_of_pod,
    mesh::{
        model::{Flavour, ProxyKind, Workload},
        world::World,
    },
    webhook::inject::{Parameters, STATUS, Settings, Surroundings, inject},
};

/// The container of the proxy.
const PROXY: &str = "istio-proxy";
/// The annotation that says which proxy a pod gets.
const TEMPLATE: &str = "inject.istio.io/templates";

/// Those of a stock Envoy's extensions that count: for metrics, and for WebAssembly. It is told apart by having none of Istio's.
const STOCK_EXTENSIONS: [&str; 2] = ["envoy.access_loggers.stats", "envoy.wasm.runtime.v8"];

/// A proxy that runs beside a pod's application, or is all of the pod.
pub(super) struct InjectedProxy<'a> {
    /// Its pod.
    pub(super) workload: &'a Workload,
    /// The pod as it is written; `None` for a WorkloadEntry, which has none.
    pub(super) pod: Option<Value>,
    /// Sidecar or gateway.
    pub(super) kind: ProxyKind,
    /// The build of Envoy.
    pub(super) flavour: Flavour,
    /// Whether it may not bind ports below 1024.
    pub(super) unprivileged: bool,
    /// The mesh that it is of.
    pub(super) world: &'a World,
}

impl InjectedProxy<'_> {
    /// Returns its node as JSON: what the agent in the pod writes into Envoy's bootstrap. A pod without a proxy is injected first.
    ///
    /// # Errors
    /// When the pod has no address, or cannot be injected.
    pub(super) fn described(&self) -> anyhow::Result<Value> {
        let Workload { name, namespace, ips, .. } = self.workload;
        ips.first().with_context(|| format!("--proxy: Pod {namespace}/{name} has no address yet (status.podIP)"))?;
        let pod = self.pod.clone().unwrap_or_else(|| self.stand_in());
        let failed = |why: String| anyhow!("--proxy: Pod {namespace}/{name}: {why}");
        let injected = match pod["metadata"]["annotations"][STATUS].is_string() {
            true => pod,
            false => self.injected(pod).map_err(failed)?,
        };
        let settings = settings_of_pod(&injected, PROXY).map_err(|error| failed(format!("{error:#}")))?;
        let mut node = bootstrap::node(&AgentSettings { role: role(self.kind), ..settings });
        if self.unprivileged {
            node["metadata"]["UNPRIVILEGED_POD"] = "true".into();
        }
        Ok(node)
    }

    /// Returns its node as Envoy sends it.
    pub(super) fn node(&self, described: &Value) -> Node {
        let extensions = match self.flavour {
            Flavour::Stock => STOCK_EXTENSIONS.map(|name| Extension { name: name.into(), ..Extension::default() }).into(),
            Flavour::Istio => Vec::new(),
        };
        let text = |field: &str| described[field].as_str().unwrap_or_default().to_owned();
        let metadata = described["metadata"].as_object().map(fields);
        Node { id: text("id"), cluster: text("cluster"), metadata, extensions, ..Node::default() }
    }

    fn injected(&self, mut pod: Value) -> Result<Value, String> {
        if self.kind == ProxyKind::Gateway && pod["metadata"]["annotations"][TEMPLATE].is_null() {
            pod["metadata"]["annotations"][TEMPLATE] = "gateway".into();
        }
        let settings =
            Settings { cluster: self.workload.cluster.to_string(), domain: self.world.mesh.domain.to_string(), ..Settings::default() };
        let around = Surroundings {
            namespace: &self.workload.namespace,
            pod_security: None,
            owner: None,
            parameters: &Parameters::default(),
            settings: &settings,
            world: self.world,
        };
        inject(&pod, around).map(|injected| injected.pod).map_err(|refused| refused.to_string())
    }

    /// Returns a pod that is like a workload that is none.
    fn stand_in(&self) -> Value {
        let Workload { name, namespace, labels, annotations, service_account, node, ips, ports, .. } = self.workload;
        let ports: Vec<Value> = ports.iter().map(|(name, number)| json!({ "name": name, "containerPort": number })).collect();
        let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({
            "metadata": { "name": name, "namespace": namespace, "labels": labels.as_ref(), "annotations": annotations.as_ref() },
            "spec": { "serviceAccountName": service_account, "nodeName": node, "containers": [{ "name": name, "ports": ports }] },
            "status": { "podIPs": ips },
        })
    }
}

/// Reads the document of a pod again, with all of its fields. The control plane keeps few of them.
pub(super) fn document_of(workload: &Workload, location: Option<&Location>) -> anyhow::Result<Option<Value>> {
    let Some(location) = location.filter(|_| workload.kind == Kind::Pod) else { return Ok(None) };
    let text = fs::read_to_string(Path::new(&*location.file)).with_context(|| location.file.to_string())?;
    let document = yaml::documents(&text).into_iter().nth(location.document.saturating_sub(1));
    let document = document.map(yaml::document).transpose().map_err(|broken| anyhow!("{}: {broken}", location.file))?;
    let listed = document.as_ref().and_then(|document| document["items"].as_array()).into_iter().flatten();
    let is_it = |pod: &&Value| {
        let metadata = &pod["metadata"];
        metadata["name"] == *workload.name && metadata["namespace"].as_str().unwrap_or("default") == workload.namespace
    };
    let found = listed.chain(&document).filter(|pod| pod["kind"] == "Pod").find(is_it).cloned();
    Ok(found)
}

/// Returns which proxy a pod says that it has; `None` if it does not say.
pub(super) fn kind_said_by(pod: &Value) -> Option<ProxyKind> {
    let annotations = &pod["metadata"]["annotations"];
    match annotations[TEMPLATE].as_str() {
        Some("gateway") => Some(ProxyKind::Gateway),
        Some("sidecar") => Some(ProxyKind::Sidecar),
        _ if annotations[STATUS].is_string() => settings_of_pod(pod, PROXY).ok().map(|settings| kind(settings.role)),
        _ => None,
    }
}

fn kind(role: Role) -> ProxyKind {
    match role {
        Role::Sidecar => ProxyKind::Sidecar,
        Role::Gateway => ProxyKind::Gateway,
    }
}

fn role(kind: ProxyKind) -> Role {
    match kind {
        ProxyKind::Sidecar => Role::Sidecar,
        ProxyKind::Gateway => Role::Gateway,
    }
}

fn fields(map: &serde_json::Map<String, Value>) -> Struct {
    Struct { fields: map.iter().map(|(name, value)| (name.clone(), of_json(value))).collect::<HashMap<_, _>>() }
}

fn of_json(value: &Value) -> Field {
    let kind = match value {
        Value::Null => FieldKind::NullValue(0),
        Value::Bool(flag) => FieldKind::BoolValue(*flag),
        Value::Number(number) => FieldKind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => FieldKind::StringValue(text.clone()),
        Value::Array(values) => FieldKind::ListValue(ListValue { values: values.iter().map(of_json).collect() }),
        Value::Object(map) => FieldKind::StructValue(fields(map)),
    };
    Field { kind: Some(kind) }
}

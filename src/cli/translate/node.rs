//! What an injected proxy says about itself in its first request, from its pod.

use std::collections::HashMap;

use anyhow::Context;
use envoy_types::pb::{
    envoy::config::core::v3::{Extension, Node},
    google::protobuf::{Struct, Value, value::Kind},
};
use serde_json::json;
use smol_str::SmolStr;

use crate::{
    api::proxy_config::InterceptionMode,
    mesh::{
        model::{Flavour, Labels, ProxyKind, ProxyPorts, Workload},
        world::World,
    },
};

/// Metadata of a proxy that `proxyMetadata` may set.
const METADATA: &str = "ISTIO_META_";

/// A proxy that runs beside a pod's application, or is all of the pod.
pub(super) struct InjectedProxy<'a> {
    /// Its pod.
    pub(super) pod: &'a Workload,
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
    /// Returns its node as Envoy sends it.
    ///
    /// # Errors
    /// When the pod has no address.
    pub(super) fn node(&self) -> anyhow::Result<Node> {
        let Workload { name, namespace, .. } = self.pod;
        let ip = self.pod.ips.first().with_context(|| format!("--proxy: Pod {namespace}/{name} has no address yet (status.podIP)"))?;
        let kind = match self.kind {
            ProxyKind::Sidecar => "sidecar",
            ProxyKind::Gateway => "router",
        };
        // Of stock Envoy's extensions any one will do: it is told apart by having none of Istio's.
        let extensions = match self.flavour {
            Flavour::Stock => vec![Extension { name: "envoy.filters.http.router".into(), ..Extension::default() }],
            Flavour::Istio => Vec::new(),
        };
        Ok(Node {
            id: format!("{kind}~{ip}~{name}.{namespace}~{namespace}.svc.{}", self.world.mesh.domain),
            metadata: Some(Struct { fields: self.metadata() }),
            extensions,
            ..Node::default()
        })
    }

    fn metadata(&self) -> HashMap<String, Value> {
        let pod = self.pod;
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        let ports: Vec<_> = pod.ports.iter().map(|(name, number)| json!({"name": name, "containerPort": number})).collect();
        let port = |port: Option<u16>| port.map(|port| port.to_string()).unwrap_or_default();
        let mut said: Vec<(&str, String)> = vec![
            ("NAMESPACE", pod.namespace.to_string()),
            ("SERVICE_ACCOUNT", pod.service_account.to_string()),
            ("CLUSTER_ID", pod.cluster.to_string()),
            ("MESH_ID", self.world.mesh.trust_domain.to_string()),
            ("NODE_NAME", pod.node.to_string()),
            ("INSTANCE_IPS", ips.join(",")),
            ("INTERCEPTION_MODE", self.interception().into()),
            ("POD_PORTS", json!(ports).to_string()),
            ("ENVOY_STATUS_PORT", port(ProxyPorts::USUAL.status)),
            ("ENVOY_PROMETHEUS_PORT", port(ProxyPorts::USUAL.prometheus)),
        ];
        let of_mesh = &self.world.proxy_defaults.config.proxy_metadata;
        said.extend(of_mesh.iter().filter_map(|(variable, value)| Some((variable.strip_prefix(METADATA)?, value.to_string()))));
        if self.unprivileged {
            said.push(("UNPRIVILEGED_POD", "true".to_owned()));
        }
        let said = said.into_iter().map(|(key, value)| (key.to_owned(), text(value)));
        said.chain([("LABELS".to_owned(), labels(&pod.labels))]).collect()
    }

    // The pod's annotation wins over the mesh's default, as injection has it.
    fn interception(&self) -> &str {
        let annotation = self.pod.annotations.get("sidecar.istio.io/interceptionMode").map(SmolStr::as_str);
        let of_mesh = self.world.proxy_defaults.config.interception_mode.map(InterceptionMode::as_str);
        annotation.or(of_mesh).unwrap_or_default()
    }
}

fn text(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}

fn labels(labels: &Labels) -> Value {
    let fields = labels.iter().map(|(key, value)| (key.to_string(), text(value.to_string()))).collect();
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

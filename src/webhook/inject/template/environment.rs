//! Renders the environment of the proxy (contract §2.5, §5.4), as far as our agent reads it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::json;

use super::TemplateInputs;
use crate::api::proxy_config::ProxyConfig;

/// Returns all variables, each once.
pub(super) fn of(inputs: &TemplateInputs<'_>) -> Vec<EnvVar> {
    let mut variables = Variables::default();
    control_plane(inputs, &mut variables);
    pod(inputs, &mut variables);
    workload(inputs, &mut variables);
    for (name, value) in &inputs.config.proxy_metadata {
        variables.set(name, value.as_str());
    }
    for (name, value) in inputs.parameters.variables() {
        variables.set(name, value);
    }
    variables.0
}

/// Variables in the order in which they were first set, so that one may refer to earlier ones.
#[derive(Default)]
struct Variables(Vec<EnvVar>);

impl Variables {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.put(EnvVar { name: name.to_owned(), value: Some(value.into()), value_from: None });
    }

    fn of_pod(&mut self, name: &str, path: &str) {
        let field = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
        self.from(name, EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() });
    }

    fn from(&mut self, name: &str, source: EnvVarSource) {
        self.put(EnvVar { name: name.to_owned(), value: None, value_from: Some(source) });
    }

    fn put(&mut self, variable: EnvVar) {
        match self.0.iter_mut().find(|present| present.name == variable.name) {
            Some(present) => *present = variable,
            None => self.0.push(variable),
        }
    }
}

fn control_plane(inputs: &TemplateInputs<'_>, variables: &mut Variables) {
    let asked = inputs.annotations.discovery_address.clone();
    let address = asked.or_else(|| inputs.config.discovery_address.as_ref().map(ToString::to_string));
    let address = address.unwrap_or_else(|| inputs.settings.discovery_address());
    variables.set("CA_ADDR", address.clone());
    let config = inputs.config.with(&ProxyConfig { discovery_address: Some(address.into()), ..ProxyConfig::default() });
    variables.set("PROXY_CONFIG", config.to_json().to_string());
    variables.set("TRUST_DOMAIN", inputs.mesh.trust_domain.as_str());
}

fn pod(inputs: &TemplateInputs<'_>, variables: &mut Variables) {
    variables.of_pod("POD_NAME", "metadata.name");
    variables.of_pod("POD_NAMESPACE", "metadata.namespace");
    variables.of_pod("INSTANCE_IP", "status.podIP");
    variables.of_pod("INSTANCE_IPS", "status.podIPs");
    variables.of_pod("SERVICE_ACCOUNT", "spec.serviceAccountName");
    variables.of_pod("HOST_IP", "status.hostIP");
    variables.of_pod("ISTIO_META_NODE_NAME", "spec.nodeName");
    let cpu = ResourceFieldSelector { resource: "limits.cpu".to_owned(), divisor: Some(Quantity("1".to_owned())), container_name: None };
    variables.from("ISTIO_CPU_LIMIT", EnvVarSource { resource_field_ref: Some(cpu), ..EnvVarSource::default() });
    variables.set("ISTIO_META_POD_PORTS", pod_ports(inputs));
    variables.set("ISTIO_META_APP_CONTAINERS", inputs.application_containers().join(","));
}

fn workload(inputs: &TemplateInputs<'_>, variables: &mut Variables) {
    let settings = inputs.settings;
    variables.set("ISTIO_META_CLUSTER_ID", settings.cluster.as_str());
    variables.set("ISTIO_META_INTERCEPTION_MODE", inputs.interception().as_str());
    let network = inputs.labels().remove("topology.istio.io/network").unwrap_or_else(|| settings.network.clone());
    if !network.is_empty() {
        variables.set("ISTIO_META_NETWORK", network);
    }
    let named = inputs.labels().remove("service.istio.io/workload-name").unwrap_or_else(|| inputs.owner.name.clone());
    if !named.is_empty() {
        variables.set("ISTIO_META_WORKLOAD_NAME", named);
    }
    if !inputs.owner.name.is_empty() {
        variables.set("ISTIO_META_OWNER", inputs.owner.url(inputs.namespace));
    }
    let mesh_id = [Some(settings.mesh_id.as_str()), inputs.config.mesh_id.as_deref(), Some(&inputs.mesh.trust_domain)];
    if let Some(mesh_id) = mesh_id.into_iter().flatten().find(|id| !id.is_empty()) {
        variables.set("ISTIO_META_MESH_ID", mesh_id);
    }
}

fn pod_ports(inputs: &TemplateInputs<'_>) -> String {
    let containers = inputs.pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let shown = ports.map(|port| {
        let mut fields = BTreeMap::from([("containerPort", json!(port.container_port))]);
        fields.extend(port.name.as_ref().map(|name| ("name", json!(name))));
        fields.insert("protocol", json!(port.protocol.as_deref().unwrap_or("TCP")));
        json!(fields)
    });
    json!(shown.collect::<Vec<_>>()).to_string()
}

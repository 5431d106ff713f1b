//! Renders what is merged into a pod. The built-in templates are typed Rust values instead of text templates.

mod capture;
mod environment;
mod image;
mod proxy;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, PodSecurityContext, PodSpec, Sysctl},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

pub(super) use self::{
    image::doubt as doubt_of_image,
    proxy::{METRICS_PORT, READINESS_PORT, group, user},
    volumes::OWN as OWN_VOLUMES,
};
use super::{
    annotations::{Annotations, Template},
    path::Parameters,
    settings::Settings,
    workload::{Owner, canonical},
};
use crate::{
    api::proxy_config::{InterceptionMode, ProxyConfig},
    mesh::settings::MeshSettings,
};

/// The name of the proxy's container. Users complete or change it by a container of their own with this name.
pub(super) const PROXY: &str = "istio-proxy";
/// The name of the init container that sets the capture rules.
pub(super) const INIT: &str = "istio-init";

/// The label by which a pod says how its clients are to speak to it.
pub(super) const TLS_MODE: &str = "security.istio.io/tlsMode";
/// The port of Envoy's admin, on loopback, by default.
const ADMIN_PORT: u16 = 15000;
/// The agent's own port by default.
pub(super) const STATUS_PORT: u16 = 15020;

/// What a template is rendered from.
pub(super) struct TemplateInputs<'a> {
    /// The pod without what an earlier injection added.
    pub(super) pod: &'a Pod,
    pub(super) namespace: &'a str,
    pub(super) owner: &'a Owner,
    pub(super) annotations: &'a Annotations,
    /// How the proxy is started, by all that is said of it.
    pub(super) config: &'a ProxyConfig,
    pub(super) parameters: &'a Parameters,
    pub(super) settings: &'a Settings,
    pub(super) mesh: &'a MeshSettings,
}

/// Renders what is merged into the pod. With template `sidecar` the proxy is an init container (a native sidecar), otherwise a
/// container.
pub(super) fn render(template: Template, inputs: &TemplateInputs<'_>) -> Pod {
    let (init_containers, containers) = match template {
        Template::Sidecar => {
            let init = capture::init_container(inputs).into_iter().chain([proxy::sidecar(inputs)]).collect();
            (Some(init), Vec::new())
        }
        Template::Gateway => (None, vec![proxy::gateway(inputs)]),
    };
    Pod {
        metadata: metadata(template, inputs),
        spec: Some(PodSpec {
            init_containers,
            containers,
            volumes: Some(volumes::of(template, inputs)),
            image_pull_secrets: inputs.settings.pull_secrets(),
            security_context: (template == Template::Gateway).then(unprivileged_ports),
            ..PodSpec::default()
        }),
        status: None,
    }
}

// === impl TemplateInputs ===

impl TemplateInputs<'_> {
    pub(super) fn interception(&self) -> InterceptionMode {
        self.annotations.interception.or(self.config.interception_mode).unwrap_or_default()
    }

    /// Returns the agent's own port; `None` if the pod wants neither readiness nor rewritten probes
    /// (`status.sidecar.istio.io/port: "0"`).
    pub(super) fn status_port(&self) -> Option<u16> {
        let port = self.annotations.status_port.or(self.config.status_port).unwrap_or(STATUS_PORT);
        Some(port).filter(|port| *port != 0)
    }

    /// Returns the port of Envoy's admin.
    pub(super) fn admin_port(&self) -> u16 {
        self.config.proxy_admin_port.unwrap_or(ADMIN_PORT)
    }

    /// Returns the names of all containers except the proxy, which the user may have completed.
    fn application_containers(&self) -> Vec<&str> {
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.map(|container| container.name.as_str()).filter(|name| *name != PROXY).collect()
    }

    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.pod.metadata.labels.clone().unwrap_or_default()
    }
}

fn metadata(template: Template, inputs: &TemplateInputs<'_>) -> ObjectMeta {
    let (name, revision) = canonical(&inputs.labels(), inputs.owner);
    let mut labels = BTreeMap::new();
    if !name.is_empty() {
        labels.insert("service.istio.io/canonical-name".to_owned(), name);
    }
    labels.insert("service.istio.io/canonical-revision".to_owned(), revision);
    if template == Template::Sidecar {
        let mode = inputs.labels().remove(TLS_MODE).unwrap_or_else(|| "istio".to_owned());
        labels.insert(TLS_MODE.to_owned(), mode);
    }
    if let Some(network) = inputs.parameters.network() {
        labels.insert("topology.istio.io/network".to_owned(), network.to_owned());
    }
    ObjectMeta { labels: Some(labels), annotations: Some(annotations(inputs)), ..ObjectMeta::default() }
}

fn annotations(inputs: &TemplateInputs<'_>) -> BTreeMap<String, String> {
    let revision = inputs.settings.named_revision().unwrap_or("default");
    let mut annotations = BTreeMap::from([("istio.io/rev".to_owned(), revision.to_owned())]);
    let written = inputs.pod.metadata.annotations.clone().unwrap_or_default();
    if let Some(first) = inputs.application_containers().first() {
        for name in ["kubectl.kubernetes.io/default-container", "kubectl.kubernetes.io/default-logs-container"] {
            if !written.contains_key(name) {
                annotations.insert(name.to_owned(), (*first).to_owned());
            }
        }
    }
    annotations
}

/// Allows a gateway to bind 80 and 443 as an ordinary user.
fn unprivileged_ports() -> PodSecurityContext {
    let sysctl = Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "0".to_owned() };
    PodSecurityContext { sysctls: Some(vec![sysctl]), ..PodSecurityContext::default() }
}

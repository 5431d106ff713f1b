//! What the built-in templates are filled with, besides the mesh's settings and the pod itself.

use k8s_openapi::{
    api::core::v1::{LocalObjectReference, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// Settings of the operator for all proxies; annotations of a pod go over most of them (contract §5.5).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Image with istiod-lite, Envoy and iptables: one for sidecars, gateways and the init container.
    pub image: String,
    /// `imagePullPolicy`; `None`: what the API server makes of the image's tag.
    pub image_pull_policy: Option<String>,
    /// Names of Secrets.
    pub image_pull_secrets: Vec<String>,
    /// Revision of this control plane; `default` for the one without a name.
    pub revision: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Cluster of the pods.
    pub cluster: String,
    /// Network of the pods; empty: none.
    pub network: String,
    /// Mesh id; empty: the trust domain.
    pub mesh_id: String,
    /// DNS domain of the cluster.
    pub domain: String,
    /// What a proxy and the init container ask for and may use.
    pub resources: Resources,
    /// Envoy's log level.
    pub envoy_log_level: String,
    /// The agent's log level.
    pub agent_log_level: String,
    /// Which traffic is captured where the pod does not say.
    pub capture: CaptureDefaults,
    /// Whether probes of the application go through the agent where the pod does not say.
    pub rewrite_probes: bool,
}

/// Requests and limits as Kubernetes quantities; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`
    pub cpu: String,
    /// `limits.cpu`
    pub cpu_limit: String,
    /// `requests.memory`
    pub memory: String,
    /// `limits.memory`
    pub memory_limit: String,
}

/// Which traffic is captured; lists joined by commas, `*` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureDefaults {
    /// Inbound ports.
    pub include_inbound_ports: String,
    /// Inbound ports that are not captured, besides the proxy's own.
    pub exclude_inbound_ports: String,
    /// Destinations outbound, in CIDR notation.
    pub include_outbound_ranges: String,
    /// Destinations that are not captured.
    pub exclude_outbound_ranges: String,
    /// Outbound ports that are captured whatever the destination.
    pub include_outbound_ports: String,
    /// Outbound ports that are not captured.
    pub exclude_outbound_ports: String,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("localhost/istiod-lite:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            revision: "default".to_owned(),
            namespace: "istio-system".to_owned(),
            cluster: "Kubernetes".to_owned(),
            network: String::new(),
            mesh_id: String::new(),
            domain: "cluster.local".to_owned(),
            resources: Resources::istio(),
            envoy_log_level: "warning".to_owned(),
            agent_log_level: "info".to_owned(),
            capture: CaptureDefaults::default(),
            rewrite_probes: true,
        }
    }
}

impl Settings {
    /// The revision's name in names of objects; `None` for the default one.
    pub fn named_revision(&self) -> Option<&str> {
        Some(self.revision.as_str()).filter(|revision| !matches!(*revision, "" | "default"))
    }

    /// `host:port` at which proxies find this control plane (contract §5.4).
    pub fn discovery_address(&self) -> String {
        let suffix = self.named_revision().map(|revision| format!("-{revision}")).unwrap_or_default();
        format!("istiod{suffix}.{}.svc:15012", self.namespace)
    }

    pub(super) fn pull_secrets(&self) -> Option<Vec<LocalObjectReference>> {
        let secrets: Vec<_> = self.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
        (!secrets.is_empty()).then_some(secrets)
    }
}

// === impl Resources ===

impl Resources {
    /// What Istio's chart gives a proxy.
    pub fn istio() -> Self {
        let [cpu, cpu_limit, memory, memory_limit] = ["100m", "2", "128Mi", "1Gi"].map(str::to_owned);
        Self { cpu, cpu_limit, memory, memory_limit }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn requirements(&self) -> ResourceRequirements {
        let list = |entries: [(&str, &String); 2]| {
            let said = entries.into_iter().filter(|(_, value)| !value.is_empty());
            let map: std::collections::BTreeMap<_, _> = said.map(|(name, value)| (name.to_owned(), Quantity(value.clone()))).collect();
            (!map.is_empty()).then_some(map)
        };
        ResourceRequirements {
            requests: list([("cpu", &self.cpu), ("memory", &self.memory)]),
            limits: list([("cpu", &self.cpu_limit), ("memory", &self.memory_limit)]),
            ..ResourceRequirements::default()
        }
    }
}

// === impl CaptureDefaults ===

impl Default for CaptureDefaults {
    fn default() -> Self {
        let [all, none] = ["*", ""].map(str::to_owned);
        Self {
            include_inbound_ports: all.clone(),
            exclude_inbound_ports: none.clone(),
            include_outbound_ranges: all,
            exclude_outbound_ranges: none.clone(),
            include_outbound_ports: none.clone(),
            exclude_outbound_ports: none,
        }
    }
}

//! The settings from which the built-in templates are rendered, besides those of the mesh and of the pod.

use k8s_openapi::{
    api::core::v1::{LocalObjectReference, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// The operator's settings for all proxies. Annotations of a pod override most of them (contract §5.5).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The image with istiod-lite, Envoy and iptables, for sidecars, gateways and the init container.
    pub image: String,
    /// The types of image that there are of it, each with the type at the end of the tag; `default` is the tag without any.
    pub image_types: Vec<String>,
    /// `imagePullPolicy`; `None` for what the API server makes of the image's tag.
    pub image_pull_policy: Option<String>,
    /// The names of the Secrets for pulling the image.
    pub image_pull_secrets: Vec<String>,
    /// The revision of this control plane; `default` for the one without a name.
    pub revision: String,
    /// The namespace of the control plane.
    pub namespace: String,
    /// The cluster of the pods.
    pub cluster: String,
    /// The network of the pods; empty for none.
    pub network: String,
    /// The id of the mesh; empty for the trust domain.
    pub mesh_id: String,
    /// The DNS domain of the cluster.
    pub domain: String,
    /// The resources of a proxy and of the init container.
    pub resources: ProxyResources,
    /// Envoy's log level.
    pub envoy_log_level: String,
    /// The agent's log level.
    pub agent_log_level: String,
    /// Which traffic is captured if the pod does not say.
    pub capture: CaptureDefaults,
    /// Whether probes of the application go through the agent if the pod does not say.
    pub rewrite_probes: bool,
}

/// Requests and limits of a container as Kubernetes quantities; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyResources {
    /// `requests.cpu`
    pub cpu: String,
    /// `limits.cpu`
    pub cpu_limit: String,
    /// `requests.memory`
    pub memory: String,
    /// `limits.memory`
    pub memory_limit: String,
}

/// Which traffic is captured. Lists are joined by commas, `*` stands for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureDefaults {
    /// The inbound ports that are captured.
    pub include_inbound_ports: String,
    /// The inbound ports that are not captured, besides the proxy's own.
    pub exclude_inbound_ports: String,
    /// The outbound destinations that are captured, in CIDR notation.
    pub include_outbound_ranges: String,
    /// The outbound destinations that are not captured.
    pub exclude_outbound_ranges: String,
    /// The outbound ports that are captured whatever the destination.
    pub include_outbound_ports: String,
    /// The outbound ports that are not captured.
    pub exclude_outbound_ports: String,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("localhost/istiod-lite:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_types: Vec::new(),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            revision: "default".to_owned(),
            namespace: "istio-system".to_owned(),
            cluster: "Kubernetes".to_owned(),
            network: String::new(),
            mesh_id: String::new(),
            domain: "cluster.local".to_owned(),
            resources: ProxyResources::istio(),
            envoy_log_level: "warning".to_owned(),
            agent_log_level: "info".to_owned(),
            capture: CaptureDefaults::default(),
            rewrite_probes: true,
        }
    }
}

impl Settings {
    /// Returns the name that the revision has in names of objects; `None` for the default revision.
    pub fn named_revision(&self) -> Option<&str> {
        Some(self.revision.as_str()).filter(|revision| !matches!(*revision, "" | "default"))
    }

    /// Returns the `host:port` at which proxies find this control plane (contract §5.4).
    pub fn discovery_address(&self) -> String {
        let suffix = self.named_revision().map(|revision| format!("-{revision}")).unwrap_or_default();
        format!("istiod{suffix}.{}.svc:15012", self.namespace)
    }

    pub(super) fn pull_secrets(&self) -> Option<Vec<LocalObjectReference>> {
        let secrets: Vec<_> = self.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
        (!secrets.is_empty()).then_some(secrets)
    }
}

// === impl ProxyResources ===

impl ProxyResources {
    /// Returns the resources that Istio's chart gives a proxy.
    pub fn istio() -> Self {
        let [cpu, cpu_limit, memory, memory_limit] = ["100m", "2", "128Mi", "1Gi"].map(str::to_owned);
        Self { cpu, cpu_limit, memory, memory_limit }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn requirements(&self) -> ResourceRequirements {
        let list = |entries: [(&str, &String); 2]| {
            let set = entries.into_iter().filter(|(_, value)| !value.is_empty());
            let map: std::collections::BTreeMap<_, _> = set.map(|(name, value)| (name.to_owned(), Quantity(value.clone()))).collect();
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

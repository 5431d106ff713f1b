//! The part of Istio's ProxyConfig that injection and the agent read: MeshConfig's `defaultConfig`, the annotation
//! `proxy.istio.io/config` of one pod over it (contract §5.5), and what objects of kind ProxyConfig say of that.

mod headers;
mod stats;
mod topology;

use std::time::Duration;

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

pub use self::{
    headers::{CertificateDetails, Disabled, ProxyHeaders, ServerHeader},
    stats::StatsMatcher,
    topology::{ForwardedCertificate, GatewayTopology},
};
use super::Labels;

/// How a proxy is started. `None` stands for a field that is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `discoveryAddress`: `host:port` of the control plane.
    pub discovery_address: Option<SmolStr>,
    /// `concurrency`: the number of Envoy's worker threads; 0 for one per CPU that the container may use.
    pub concurrency: Option<u32>,
    /// `drainDuration`: how long connections of a changed listener may stay open.
    pub drain_duration: Option<Duration>,
    /// `terminationDrainDuration`: how long connections may stay open when the proxy ends.
    pub termination_drain_duration: Option<Duration>,
    /// `interceptionMode`
    pub interception_mode: Option<InterceptionMode>,
    /// `statusPort`: the agent's own port.
    pub status_port: Option<u16>,
    /// `proxyAdminPort`: the port of Envoy's admin.
    pub proxy_admin_port: Option<u16>,
    /// `proxyMetadata`: environment variables of the agent.
    pub proxy_metadata: Labels,
    /// `image.imageType`: which of the images that are built of one version.
    pub image_type: Option<SmolStr>,
    /// `gatewayTopology`
    pub gateway_topology: Option<GatewayTopology>,
    /// `serviceCluster` or `tracingServiceName`
    pub service_name: Option<ServiceName>,
    /// `meshId`
    pub mesh_id: Option<SmolStr>,
    /// `proxyStatsMatcher`
    pub stats_matcher: Option<StatsMatcher>,
    /// `extraStatTags`: names of labels beside the usual ones.
    pub extra_stat_tags: Vec<SmolStr>,
    /// `proxyHeaders`
    pub proxy_headers: Option<ProxyHeaders>,
    /// `runtimeValues`: Envoy's runtime; an empty value takes one of ours away.
    pub runtime_values: Labels,
    /// `fileFlushInterval`: how often access logs are written.
    pub file_flush_interval: Option<Duration>,
    /// `fileFlushMinSizeKb`: with how much of an access log Envoy waits no longer.
    pub file_flush_min_size_kb: Option<u32>,
}

/// What a proxy is called in traces, and as Envoy's local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceName {
    /// `serviceCluster`: this.
    Written(SmolStr),
    /// `APP_LABEL_AND_NAMESPACE`
    AppLabelAndNamespace,
    /// `CANONICAL_NAME_ONLY`
    CanonicalNameOnly,
    /// `CANONICAL_NAME_AND_NAMESPACE`
    CanonicalNameAndNamespace,
}

/// How traffic reaches a sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterceptionMode {
    /// `REDIRECT`
    #[default]
    Redirect,
    /// `TPROXY`
    Tproxy,
    /// `NONE`: traffic is not captured.
    None,
}

// === impl InterceptionMode ===

impl InterceptionMode {
    /// Returns the name in annotations, ProxyConfig and node metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
            Self::None => "NONE",
        }
    }

    /// Returns the mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Redirect, Self::Tproxy, Self::None].into_iter().find(|mode| mode.as_str() == name)
    }
}

// === impl ServiceName ===

impl ServiceName {
    /// The ways to make it of labels, in the order of Istio's numbers.
    pub const MADE: [(&str, Self); 3] = [
        ("APP_LABEL_AND_NAMESPACE", Self::AppLabelAndNamespace),
        ("CANONICAL_NAME_ONLY", Self::CanonicalNameOnly),
        ("CANONICAL_NAME_AND_NAMESPACE", Self::CanonicalNameAndNamespace),
    ];

    fn to_json(&self) -> (&'static str, Value) {
        match self {
            Self::Written(name) => ("serviceCluster", json!(name)),
            made => ("tracingServiceName", json!(Self::MADE.iter().find(|(_, other)| other == made).map(|(name, _)| name))),
        }
    }
}

// === impl ProxyConfig ===

impl ProxyConfig {
    /// Returns this configuration overridden by `above`, field by field. Metadata is merged by key.
    pub fn with(&self, above: &Self) -> Self {
        let mut proxy_metadata = self.proxy_metadata.clone();
        proxy_metadata.extend(above.proxy_metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self {
            discovery_address: first(&above.discovery_address, &self.discovery_address),
            concurrency: above.concurrency.or(self.concurrency),
            drain_duration: above.drain_duration.or(self.drain_duration),
            termination_drain_duration: above.termination_drain_duration.or(self.termination_drain_duration),
            interception_mode: above.interception_mode.or(self.interception_mode),
            status_port: above.status_port.or(self.status_port),
            proxy_admin_port: above.proxy_admin_port.or(self.proxy_admin_port),
            proxy_metadata,
            image_type: first(&above.image_type, &self.image_type),
            gateway_topology: above.gateway_topology.or(self.gateway_topology),
            service_name: first(&above.service_name, &self.service_name),
            mesh_id: first(&above.mesh_id, &self.mesh_id),
            stats_matcher: first(&above.stats_matcher, &self.stats_matcher),
            extra_stat_tags: if above.extra_stat_tags.is_empty() { &self.extra_stat_tags } else { &above.extra_stat_tags }.clone(),
            proxy_headers: match (&self.proxy_headers, &above.proxy_headers) {
                (Some(below), Some(above)) => Some(below.with(above)),
                (below, above) => first(above, below),
            },
            runtime_values: if above.runtime_values.is_empty() { &self.runtime_values } else { &above.runtime_values }.clone(),
            file_flush_interval: above.file_flush_interval.or(self.file_flush_interval),
            file_flush_min_size_kb: above.file_flush_min_size_kb.or(self.file_flush_min_size_kb),
        }
    }

    /// Returns the fields that are set as proto3 JSON, the value of `PROXY_CONFIG`.
    pub fn to_json(&self) -> Value {
        let service_name = self.service_name.as_ref().map(ServiceName::to_json);
        let said = [
            ("discoveryAddress", self.discovery_address.as_ref().map(|address| json!(address))),
            ("concurrency", self.concurrency.map(|threads| json!(threads))),
            ("drainDuration", self.drain_duration.map(seconds)),
            ("terminationDrainDuration", self.termination_drain_duration.map(seconds)),
            ("interceptionMode", self.interception_mode.map(|mode| json!(mode.as_str()))),
            ("statusPort", self.status_port.map(|port| json!(port))),
            ("proxyAdminPort", self.proxy_admin_port.map(|port| json!(port))),
            ("proxyMetadata", (!self.proxy_metadata.is_empty()).then(|| json!(self.proxy_metadata))),
            ("image", self.image_type.as_ref().map(|kind| json!({ "imageType": kind }))),
            ("gatewayTopology", self.gateway_topology.map(GatewayTopology::to_json)),
            ("meshId", self.mesh_id.as_ref().map(|id| json!(id))),
            ("proxyStatsMatcher", self.stats_matcher.as_ref().map(StatsMatcher::to_json)),
            ("extraStatTags", (!self.extra_stat_tags.is_empty()).then(|| json!(self.extra_stat_tags))),
            ("proxyHeaders", self.proxy_headers.as_ref().map(ProxyHeaders::to_json)),
            ("runtimeValues", (!self.runtime_values.is_empty()).then(|| json!(self.runtime_values))),
            ("fileFlushInterval", self.file_flush_interval.map(seconds)),
            ("fileFlushMinSizeKb", self.file_flush_min_size_kb.map(|size| json!(size))),
        ];
        let said = said.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(service_name);
        Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
    }
}

fn first<T: Clone>(above: &Option<T>, below: &Option<T>) -> Option<T> {
    above.as_ref().or(below.as_ref()).cloned()
}

/// Returns whether a text can be the type of an image: it stands at the end of the image's tag.
pub fn is_image_type(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Formats a duration, with a fraction only if there is one: `45s`, `0.500s`.
fn seconds(duration: Duration) -> Value {
    match duration.subsec_millis() {
        0 => json!(format!("{}s", duration.as_secs())),
        millis => json!(format!("{}.{millis:03}s", duration.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_above_wins_and_metadata_is_merged() {
        let metadata = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect::<Labels>();
        let mesh = ProxyConfig {
            concurrency: Some(2),
            drain_duration: Some(Duration::from_secs(45)),
            proxy_metadata: metadata(&[("A", "mesh"), ("B", "mesh")]),
            ..ProxyConfig::default()
        };
        let pod = ProxyConfig {
            concurrency: Some(0),
            termination_drain_duration: Some(Duration::from_millis(1500)),
            proxy_metadata: metadata(&[("B", "pod")]),
            ..ProxyConfig::default()
        };
        let expected = json!({
            "concurrency": 0, "drainDuration": "45s", "terminationDrainDuration": "1.500s",
            "proxyMetadata": {"A": "mesh", "B": "pod"},
        });
        assert_eq!(mesh.with(&pod).to_json(), expected);
    }
}

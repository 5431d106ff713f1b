//! The part of Istio's ProxyConfig that injection and the agent read: MeshConfig's `defaultConfig`, the annotation
//! `proxy.istio.io/config` of one pod over it (contract §5.5), and what objects of kind ProxyConfig say of that.

use std::time::Duration;

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

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
    /// `proxyMetadata`: environment variables of the agent.
    pub proxy_metadata: Labels,
    /// `image.imageType`: which of the images that are built of one version.
    pub image_type: Option<SmolStr>,
    /// `gatewayTopology`
    pub gateway_topology: Option<GatewayTopology>,
}

/// `gatewayTopology`: what stands in front of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GatewayTopology {
    /// `numTrustedProxies`: how many proxies in front are trusted. Each adds an address to the end of `x-forwarded-for`; the one that
    /// the first of them added is the client's.
    pub trusted_proxies: u16,
    /// `forwardClientCertDetails`; `None`: what clients say of their certificates is replaced.
    pub forwarded_certificate: Option<ForwardedCertificate>,
    /// `proxyProtocol`: whether connections begin with the PROXY protocol.
    pub proxy_protocol: bool,
}

/// `forwardClientCertDetails`: what becomes of the header that says which certificate the client had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardedCertificate {
    /// `SANITIZE`: it is removed.
    Sanitize,
    /// `FORWARD_ONLY`: it is kept if the client used mTLS.
    ForwardOnly,
    /// `APPEND_FORWARD`: the client's certificate is added if it used mTLS.
    AppendForward,
    /// `SANITIZE_SET`: it is replaced if the client used mTLS.
    SanitizeSet,
    /// `ALWAYS_FORWARD_ONLY`: it is kept.
    AlwaysForwardOnly,
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

// === impl GatewayTopology ===

impl GatewayTopology {
    fn to_json(self) -> Value {
        let said = [
            ("numTrustedProxies", (self.trusted_proxies > 0).then(|| json!(self.trusted_proxies))),
            ("forwardClientCertDetails", self.forwarded_certificate.map(|forwarded| json!(forwarded.as_str()))),
            ("proxyProtocol", self.proxy_protocol.then(|| json!({}))),
        ];
        Value::Object(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

// === impl ForwardedCertificate ===

impl ForwardedCertificate {
    /// All, in the order of Istio's numbers from 1.
    pub const ALL: [Self; 5] = [Self::Sanitize, Self::ForwardOnly, Self::AppendForward, Self::SanitizeSet, Self::AlwaysForwardOnly];

    /// Returns the name in ProxyConfig.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sanitize => "SANITIZE",
            Self::ForwardOnly => "FORWARD_ONLY",
            Self::AppendForward => "APPEND_FORWARD",
            Self::SanitizeSet => "SANITIZE_SET",
            Self::AlwaysForwardOnly => "ALWAYS_FORWARD_ONLY",
        }
    }

    /// Returns what has this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|forwarded| forwarded.as_str() == name)
    }
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

// === impl ProxyConfig ===

impl ProxyConfig {
    /// Returns this configuration overridden by `above`. Metadata is merged by key.
    pub fn with(&self, above: &Self) -> Self {
        let mut proxy_metadata = self.proxy_metadata.clone();
        proxy_metadata.extend(above.proxy_metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self {
            discovery_address: above.discovery_address.clone().or_else(|| self.discovery_address.clone()),
            concurrency: above.concurrency.or(self.concurrency),
            drain_duration: above.drain_duration.or(self.drain_duration),
            termination_drain_duration: above.termination_drain_duration.or(self.termination_drain_duration),
            interception_mode: above.interception_mode.or(self.interception_mode),
            status_port: above.status_port.or(self.status_port),
            proxy_metadata,
            image_type: above.image_type.clone().or_else(|| self.image_type.clone()),
            gateway_topology: above.gateway_topology.or(self.gateway_topology),
        }
    }

    /// Returns the fields that are set as proto3 JSON, the value of `PROXY_CONFIG`.
    pub fn to_json(&self) -> Value {
        let said = [
            ("discoveryAddress", self.discovery_address.as_ref().map(|address| json!(address))),
            ("concurrency", self.concurrency.map(|threads| json!(threads))),
            ("drainDuration", self.drain_duration.map(seconds)),
            ("terminationDrainDuration", self.termination_drain_duration.map(seconds)),
            ("interceptionMode", self.interception_mode.map(|mode| json!(mode.as_str()))),
            ("statusPort", self.status_port.map(|port| json!(port))),
            ("proxyMetadata", (!self.proxy_metadata.is_empty()).then(|| json!(self.proxy_metadata))),
            ("image", self.image_type.as_ref().map(|kind| json!({ "imageType": kind }))),
            ("gatewayTopology", self.gateway_topology.map(GatewayTopology::to_json)),
        ];
        Value::Object(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>())
    }
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

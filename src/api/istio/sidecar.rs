//! `networking.istio.io Sidecar`

use smol_str::SmolStr;

use super::{ConnectionPool, Destination, Port, ServerTls};
use crate::api::Labels;

/// `spec` of a Sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    /// `workloadSelector.labels`
    pub workload_selector: Option<Labels>,
    /// `ingress`
    pub ingress: Vec<IngressListener>,
    /// `egress`
    pub egress: Vec<EgressListener>,
    /// `outboundTrafficPolicy.mode`; `None` for that of the mesh.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// `outboundTrafficPolicy.egressProxy`: where traffic for unknown destinations is to go instead of there.
    pub egress_proxy: Option<Destination>,
    /// `inboundConnectionPool`
    pub inbound_connection_pool: Option<ConnectionPool>,
}

/// `ingress[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IngressListener {
    /// `port`
    pub port: Port,
    /// `bind`; empty for the workload's address.
    pub bind: SmolStr,
    /// `captureMode`
    pub capture_mode: CaptureMode,
    /// `defaultEndpoint`: `127.0.0.1:p`, `0.0.0.0:p`, `[::1]:p`, `unix://…`; empty for the original destination.
    pub default_endpoint: SmolStr,
    /// `connectionPool`
    pub connection_pool: Option<ConnectionPool>,
    /// `tls`
    pub tls: Option<ServerTls>,
}

/// `egress[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EgressListener {
    /// `port`
    pub port: Option<Port>,
    /// `bind`
    pub bind: SmolStr,
    /// `captureMode`
    pub capture_mode: CaptureMode,
    /// `hosts`: `namespace/host`
    pub hosts: Vec<SmolStr>,
}

/// `captureMode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CaptureMode {
    /// `DEFAULT`: as the interception mode of the proxy.
    #[default]
    Default,
    /// `IPTABLES`
    Iptables,
    /// `NONE`
    None,
}

/// `outboundTrafficPolicy.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundTrafficPolicy {
    /// `REGISTRY_ONLY`
    RegistryOnly,
    /// `ALLOW_ANY`
    #[default]
    AllowAny,
}

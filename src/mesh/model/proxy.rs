//! A connected proxy, with everything that translation may read of it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use smol_str::{SmolStr, format_smolstr};

use super::{Locality, MetricsPlan, StatsLogger};
use crate::api::{
    Labels,
    proxy_config::{GatewayTopology, ProxyHeaders},
};

/// A proxy as it described itself, checked against what is known about its workload.
///
/// Translation may read nothing else of a proxy; proxies that have this in common form a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `pod.namespace`
    pub id: SmolStr,
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// Configuration namespace.
    pub namespace: SmolStr,
    /// `SERVICE_ACCOUNT`; empty if unknown.
    pub service_account: SmolStr,
    /// The texts that it says of itself beside: its version, what its operator set.
    pub metadata: Arc<Labels>,
    /// Its addresses, the primary first.
    pub ips: Vec<IpAddr>,
    /// Labels of its workload: the pod's if it is known, or else those in the metadata.
    pub labels: Arc<Labels>,
    /// `CLUSTER_ID`
    pub cluster: SmolStr,
    /// `NETWORK`
    pub network: SmolStr,
    /// Where it runs.
    pub locality: Locality,
    /// `NODE_NAME`
    pub node: SmolStr,
    /// Capture mode.
    pub interception: Interception,
    /// The build of Envoy.
    pub flavour: Flavour,
    /// `dns_domain` of the node id (`<ns>.svc.<domain>`).
    pub dns_domain: SmolStr,
    /// Names for telemetry.
    pub telemetry: Arc<TelemetryIdentity>,
    /// What a stock Envoy counts Istio's metrics by; `None`: it has nothing for that.
    pub stats_logger: Option<StatsLogger>,
    /// Which of Istio's metrics it reports: what the mesh says, once the proxy is held against the world.
    pub metrics: MetricsPlan,
    /// The name of its service (`cluster` of the node), which it has in traces.
    pub service_cluster: SmolStr,
    /// `IDLE_TIMEOUT` of TCP proxies and HTTP connections.
    pub idle_timeout: Option<Duration>,
    /// `HTTP10` = "1"
    pub http10: bool,
    /// `HTTP_PROXY_PORT`
    pub http_proxy_port: Option<u16>,
    /// Ports that it has or cannot have.
    pub ports: ProxyPorts,
    /// How its listeners share connections out among its threads.
    pub exact_balance: ExactBalance,
    /// What stands in front of a gateway: `gatewayTopology` of `PROXY_CONFIG`; `None` for a proxy without that, until the mesh's
    /// default takes its place.
    pub topology: Option<GatewayTopology>,
    /// Which headers of its own it puts into requests and answers: `proxyHeaders` of `PROXY_CONFIG`, likewise.
    pub headers: Option<Arc<ProxyHeaders>>,
    /// Named container ports (`POD_PORTS`), for named target ports.
    pub pod_ports: Vec<(SmolStr, u16)>,
    /// What it can do with modules in WebAssembly.
    pub wasm: WasmSupport,
}

/// What a proxy can do with modules in WebAssembly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WasmSupport {
    /// It was built with what runs them.
    pub runs: bool,
    /// An agent beside it fetches them, and hands on files.
    pub fetches: bool,
}

/// Which ports a proxy holds before it is sent anything, and which it cannot bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProxyPorts {
    /// `ENVOY_STATUS_PORT`: its bootstrap answers readiness probes there, on all addresses.
    pub status: Option<u16>,
    /// `ENVOY_PROMETHEUS_PORT`: its bootstrap answers with metrics there, on all addresses.
    pub prometheus: Option<u16>,
    /// `UNPRIVILEGED_POD`: ports below 1024 cannot be bound.
    pub unprivileged: bool,
}

/// Where each thread of a proxy has as many connections as any other, instead of those that it was quick to accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExactBalance {
    /// `INBOUND_LISTENER_EXACT_BALANCE`
    pub inbound: bool,
    /// `OUTBOUND_LISTENER_EXACT_BALANCE`; it holds for a gateway's listeners too.
    pub outbound: bool,
}

/// Sidecar or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKind {
    /// `sidecar~…`
    Sidecar,
    /// `router~…`
    Gateway,
}

/// How traffic reaches a sidecar (`INTERCEPTION_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interception {
    /// iptables REDIRECT to 15001 and 15006.
    Redirect,
    /// iptables TPROXY; source addresses kept.
    Tproxy,
    /// No capture: listeners really bind.
    None,
}

/// The build of Envoy for which configuration is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flavour {
    /// Envoy as its project releases it.
    Stock,
    /// Istio's proxyv2, with extensions of its own (contract §3.8).
    Istio,
}

/// The names of a proxy in traces and metrics, which nothing else depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TelemetryIdentity {
    /// `service.istio.io/canonical-name`, or what stands in for it.
    pub canonical_name: SmolStr,
    /// `service.istio.io/canonical-revision`, or `latest`.
    pub canonical_revision: SmolStr,
    /// `MESH_ID`
    pub mesh_id: SmolStr,
    /// `NAMESPACE`
    pub namespace: SmolStr,
    /// `CLUSTER_ID`
    pub cluster_id: SmolStr,
}

impl ProxyPorts {
    /// The ports of a bootstrap in which nobody changed them.
    pub const USUAL: Self = Self { status: Some(15021), prometheus: Some(15090), unprivileged: false };

    /// Returns whether the bootstrap listens there.
    pub fn are_taken_at(&self, port: u16) -> bool {
        [self.status, self.prometheus].contains(&Some(port))
    }

    /// Returns whether the proxy lacks the right to bind the port. Zero stands for a Unix domain socket, which needs none.
    pub fn forbid(&self, port: u16) -> bool {
        self.unprivileged && (1..1024).contains(&port)
    }
}

impl Proxy {
    /// Returns a proxy of which only this is known: stock Envoy, REDIRECT, in cluster `Kubernetes` of the domain
    /// `cluster.local`. `id` is `pod.namespace`.
    pub fn new(kind: ProxyKind, id: &str) -> Self {
        let namespace = id.rsplit_once('.').map_or("", |(_, namespace)| namespace);
        Self {
            id: id.into(),
            kind,
            namespace: namespace.into(),
            service_account: SmolStr::default(),
            metadata: Arc::default(),
            ips: Vec::new(),
            labels: Arc::default(),
            cluster: "Kubernetes".into(),
            network: SmolStr::default(),
            locality: Locality::default(),
            node: SmolStr::default(),
            interception: Interception::Redirect,
            flavour: Flavour::Stock,
            dns_domain: format_smolstr!("{namespace}.svc.cluster.local"),
            telemetry: Arc::default(),
            stats_logger: Some(StatsLogger::default()),
            metrics: MetricsPlan::default(),
            service_cluster: SmolStr::default(),
            idle_timeout: None,
            http10: false,
            http_proxy_port: None,
            ports: ProxyPorts::default(),
            exact_balance: ExactBalance::default(),
            topology: None,
            headers: None,
            pod_ports: Vec::new(),
            wasm: WasmSupport::default(),
        }
    }
}

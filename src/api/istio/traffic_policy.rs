//! `TrafficPolicy` and the messages below it, shared by DestinationRule, Sidecar and MeshConfig.

use std::time::Duration;

use smol_str::SmolStr;

/// `trafficPolicy`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// `loadBalancer`
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`
    pub tls: Option<ClientTls>,
    /// `portLevelSettings`
    pub port_level_settings: Vec<PortTrafficPolicy>,
}

/// `portLevelSettings[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortTrafficPolicy {
    /// `port.number`
    pub port: u16,
    /// `loadBalancer`
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`
    pub tls: Option<ClientTls>,
}

/// `loadBalancer`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancer {
    /// `simple`
    pub simple: SimpleLb,
    /// `consistentHash`
    pub consistent_hash: Option<ConsistentHash>,
    /// `localityLbSetting`
    pub locality: Option<LocalityLb>,
}

/// `loadBalancer.consistentHash`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// The hash key; `None`, which Istio refuses, hashes nothing.
    pub key: Option<HashKey>,
    /// `ringHash`, `maglev` or neither.
    pub algorithm: HashAlgorithm,
}

/// The hash key of `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`
    HttpHeader(SmolStr),
    /// `httpCookie`
    HttpCookie {
        /// `name`
        name: SmolStr,
        /// `path`; empty if absent.
        path: SmolStr,
        /// `ttl`; `None` if no cookie is to be made for a client without one.
        ttl: Option<Duration>,
        /// `attributes`: names and values in order.
        attributes: Vec<(SmolStr, SmolStr)>,
    },
    /// `useSourceIp`
    SourceIp,
    /// `httpQueryParameterName`
    HttpQueryParameter(SmolStr),
}

/// The algorithm of `consistentHash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// `ringHash.minimumRingSize`, the old `minimumRingSize`, or Istio's default of 1024.
    RingHash {
        /// The smallest number of entries in the ring.
        minimum_ring_size: u64,
    },
    /// `maglev.tableSize`; 0 for Envoy's default.
    Maglev {
        /// The number of entries in the table, a prime.
        table_size: u64,
    },
}

/// `localityLbSetting`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityLb {
    /// `distribute`
    pub distribute: Vec<LocalityDistribute>,
    /// `failover`: from region, to region.
    pub failover: Vec<(SmolStr, SmolStr)>,
    /// `failoverPriority`: labels, the most important first.
    pub failover_priority: Vec<SmolStr>,
    /// `enabled`; `None` for that of the mesh.
    pub enabled: Option<bool>,
}

/// `localityLbSetting.distribute[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityDistribute {
    /// `from`: the locality of the client, which may end in `*`.
    pub from: SmolStr,
    /// `to`: percent by locality, sorted.
    pub to: Vec<(SmolStr, u32)>,
}

/// `loadBalancer.simple`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SimpleLb {
    /// Absent or `UNSPECIFIED`: like `LEAST_REQUEST`.
    #[default]
    Unspecified,
    /// `LEAST_REQUEST` (or the old name `LEAST_CONN`)
    LeastRequest,
    /// `ROUND_ROBIN`
    RoundRobin,
    /// `RANDOM`
    Random,
    /// `PASSTHROUGH`
    Passthrough,
}

/// `connectionPool`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// `tcp`
    pub tcp: Option<TcpSettings>,
    /// `http`
    pub http: Option<HttpSettings>,
}

/// `connectionPool.tcp`; 0 if absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpSettings {
    /// `maxConnections`
    pub max_connections: u32,
    /// `connectTimeout`
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepalive`
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `maxConnectionDuration`
    pub max_connection_duration: Option<Duration>,
    /// `idleTimeout`
    pub idle_timeout: Option<Duration>,
}

/// `tcpKeepalive`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// `probes`; 0 for the default of the system.
    pub probes: u32,
    /// `time`
    pub time: Option<Duration>,
    /// `interval`
    pub interval: Option<Duration>,
}

/// `connectionPool.http`; 0 if absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// `http1MaxPendingRequests`
    pub http1_max_pending_requests: u32,
    /// `http2MaxRequests`
    pub http2_max_requests: u32,
    /// `maxRequestsPerConnection`
    pub max_requests_per_connection: u32,
    /// `maxRetries`
    pub max_retries: u32,
    /// `idleTimeout`
    pub idle_timeout: Option<Duration>,
    /// `h2UpgradePolicy`
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// `useClientProtocol`
    pub use_client_protocol: bool,
    /// `maxConcurrentStreams`
    pub max_concurrent_streams: u32,
}

/// `h2UpgradePolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum H2UpgradePolicy {
    /// `DEFAULT`: as MeshConfig says.
    #[default]
    Default,
    /// `DO_NOT_UPGRADE`
    DoNotUpgrade,
    /// `UPGRADE`
    Upgrade,
}

/// `outlierDetection`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutlierDetection {
    /// `splitExternalLocalOriginErrors`
    pub split_external_local_origin_errors: bool,
    /// `consecutiveLocalOriginFailures`
    pub consecutive_local_origin_failures: Option<u32>,
    /// `consecutiveGatewayErrors`
    pub consecutive_gateway_errors: Option<u32>,
    /// `consecutive5xxErrors`
    pub consecutive_5xx_errors: Option<u32>,
    /// `interval`
    pub interval: Option<Duration>,
    /// `baseEjectionTime`
    pub base_ejection_time: Option<Duration>,
    /// `maxEjectionPercent`; 0 if absent.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`; 0 disables panic mode.
    pub min_health_percent: u32,
}

/// `tls` of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// `mode`
    pub mode: ClientTlsMode,
    /// `sni`
    pub sni: SmolStr,
    /// `subjectAltNames`
    pub subject_alt_names: Vec<SmolStr>,
    /// `clientCertificate`: path of a file.
    pub client_certificate: SmolStr,
    /// `privateKey`: path of a file.
    pub private_key: SmolStr,
    /// `caCertificates`: path of a file; empty for those of the system.
    pub ca_certificates: SmolStr,
    /// `caCrl`: path of a file.
    pub ca_crl: SmolStr,
    /// `credentialName`
    pub credential_name: SmolStr,
    /// `insecureSkipVerify`
    pub insecure_skip_verify: bool,
    /// The names of fields that only servers have, and by which a certificate would be verified.
    pub checks_of_servers: Vec<&'static str>,
    /// Whether it is all that is left of TLS that could not be read: nothing may be connected.
    pub refused: bool,
}

/// `tls.mode` of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientTlsMode {
    /// `DISABLE`
    #[default]
    Disable,
    /// `SIMPLE`
    Simple,
    /// `MUTUAL`
    Mutual,
    /// `ISTIO_MUTUAL`
    IstioMutual,
}

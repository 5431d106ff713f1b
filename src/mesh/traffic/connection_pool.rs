//! Connections to a service: how many, how long, which version of HTTP.

use std::time::Duration;

/// Limits of connections and requests; `None` is no limit, or the default of the mesh or of Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// Of all connections.
    pub tcp: TcpSettings,
    /// Of HTTP.
    pub http: HttpSettings,
}

/// Limits of connections, whatever they carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpSettings {
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// Until a connection must stand.
    pub connect_timeout: Option<Duration>,
    /// Overrides the mesh's, field by field.
    pub keepalive: Option<TcpKeepalive>,
    /// Connections are closed after that long.
    pub max_connection_duration: Option<Duration>,
    /// Connections that carry nothing for that long are closed.
    pub idle_timeout: Option<Duration>,
}

/// TCP keepalive; `None` is the system's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without answer until the connection counts as dead.
    pub probes: Option<u32>,
    /// Until the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// Limits and version of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// Requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests at once.
    pub max_requests: Option<u32>,
    /// Requests on one connection until it is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Retries at once.
    pub max_retries: Option<u32>,
    /// Connections without a request for that long are closed.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 is made HTTP/2; `None`: as the mesh says.
    pub h2_upgrade: Option<bool>,
    /// Upstream speaks the version that the client spoke.
    pub use_client_protocol: bool,
    /// Streams at once on one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
}

//! Limits of connections and requests, and the version of HTTP.

use std::time::Duration;

/// Limits of connections and requests; `None` is no limit, or the default of the mesh or of Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// For connections of any protocol.
    pub tcp: TcpSettings,
    /// For HTTP.
    pub http: HttpSettings,
}

/// Limits of connections, whatever they carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpSettings {
    /// How many connections may be open at once.
    pub max_connections: Option<u32>,
    /// How long a connection may take to be established.
    pub connect_timeout: Option<Duration>,
    /// TCP keepalive; overrides the mesh's, field by field.
    pub keepalive: Option<TcpKeepalive>,
    /// How long a connection may live.
    pub max_connection_duration: Option<Duration>,
    /// How long a connection may carry nothing before it is closed.
    pub idle_timeout: Option<Duration>,
}

/// TCP keepalive; `None` is the system's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// How many probes may go unanswered before the connection counts as dead.
    pub probes: Option<u32>,
    /// How long a connection is idle before the first probe.
    pub time: Option<Duration>,
    /// The time between probes.
    pub interval: Option<Duration>,
}

/// Limits and version of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// How many requests may wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// How many requests may be under way at once.
    pub max_requests: Option<u32>,
    /// How many requests a connection carries before it is closed.
    pub max_requests_per_connection: Option<u32>,
    /// How many retries may be under way at once.
    pub max_retries: Option<u32>,
    /// How long a connection may have no request before it is closed.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/2 is spoken instead of HTTP/1.1; `None`: as the mesh says.
    pub h2_upgrade: Option<bool>,
    /// Whether the version is the one that the client speaks.
    pub use_client_protocol: bool,
    /// How many streams may be open at once on an HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
}

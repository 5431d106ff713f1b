//! Network and HTTP filters of listeners (contract §3.5, §3.8).

pub mod access_log;
pub mod connection_manager;
mod ext_authz;
pub mod extensions;
pub mod http;
mod istio_stats;
pub mod jwt_authn;
mod metrics;
pub mod network;
pub mod peer_header;
pub mod policies;
mod rate_limits;
mod rbac;
pub mod tracing;

/// Where in the mesh a listener stands, which decides about its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Traffic of the sidecar's own application going out.
    Outbound,
    /// Traffic for the sidecar's own application.
    Inbound,
    /// A gateway.
    Gateway,
}

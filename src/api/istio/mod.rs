//! Istio's kinds as users write them, one file each.

mod authorization_policy;
mod destination_rule;
mod envoy_filter;
mod gateway;
mod http_route;
mod peer_authentication;
mod port;
mod proxy_config;
mod request_authentication;
mod service_entry;
mod sidecar;
mod target;
mod telemetry;
mod traffic_extension;
mod traffic_policy;
mod virtual_service;

pub use authorization_policy::*;
pub use destination_rule::*;
pub use envoy_filter::*;
pub use gateway::*;
pub use http_route::*;
pub use peer_authentication::*;
pub use port::*;
pub use proxy_config::*;
pub use request_authentication::*;
pub use service_entry::*;
pub use sidecar::*;
pub use target::*;
pub use telemetry::*;
pub use traffic_extension::*;
pub use traffic_policy::*;
pub use virtual_service::*;

//! Effective policies: which DestinationRule, which Sidecar, which mTLS mode, which tokens, who may do what, how a
//! proxy is started.

mod authorization;
pub mod authorizer;
pub mod destination_rule;
pub mod envoy_filter;
pub mod extensions;
pub mod mtls;
pub mod proxy_config;
pub mod request_authentication;
pub mod server;
mod sidecar;
pub mod workload;

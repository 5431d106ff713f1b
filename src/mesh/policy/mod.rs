//! Effective policies: which DestinationRule, which Sidecar, which mTLS mode, which tokens, who may do what.

mod authorization;
pub mod authorizer;
pub mod destination_rule;
pub mod mtls;
pub mod request_authentication;
mod sidecar;
pub mod workload;

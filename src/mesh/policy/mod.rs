//! Effective policies: which DestinationRule, which Sidecar, which mTLS mode, which tokens.

pub mod destination_rule;
pub mod mtls;
pub mod request_authentication;
mod sidecar;

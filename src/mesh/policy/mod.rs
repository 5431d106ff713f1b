//! Effective policies: which DestinationRule, which Sidecar, which mTLS mode.

pub mod destination_rule;
pub mod mtls;
mod sidecar;

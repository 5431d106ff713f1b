//! Effective policies: which DestinationRule, which mTLS mode.

pub mod destination_rule;
pub mod mtls;

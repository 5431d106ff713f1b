//! Effective policies: which DestinationRule, which mTLS mode.

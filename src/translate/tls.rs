//! TLS contexts and secrets by SDS.

//! Listeners, TLS, readiness, metrics, debug.

pub mod connection;
pub mod tls;

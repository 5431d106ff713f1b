//! Listeners, TLS, readiness, metrics, debug: what the outside world talks to.

pub mod connection;
pub mod convergence;
pub mod diagnostics;
pub mod discovery;
pub mod http;
pub mod https;
pub mod identity;
pub mod metrics;
pub mod pipeline;
pub mod proxies;
pub mod readiness;
pub mod tls;

//! Listeners, TLS, readiness, metrics, debug: what the outside world talks to.

pub mod connection;
pub mod convergence;
pub mod debug;
pub mod diagnostics;
pub mod discovery;
pub mod http;
pub mod https;
pub mod identity;
pub mod metrics;
pub mod pipeline;
pub mod process_metrics;
pub mod protocol;
pub mod readiness;
pub mod serving_files;
pub mod tls;
pub mod world_metrics;

//! Listeners, TLS, readiness, metrics, debug pages: what the outside world talks to.

pub mod connection;
mod convergence;
mod debug;
pub(crate) mod discovery;
mod finding_log;
mod findings;
mod http;
pub mod https;
mod identity;
mod kubernetes;
mod metrics;
mod pipeline;
mod process_metrics;
pub mod readiness;
mod runtime;
pub mod secure_grpc;
pub(crate) mod settings;
mod sources;
mod tasks;
pub mod tls;
mod world_metrics;

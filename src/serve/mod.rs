//! Listeners, readiness, metrics, debug: what the outside world talks to.

pub mod convergence;
pub mod diagnostics;
pub mod http;
pub mod metrics;
pub mod pipeline;
pub mod proxies;
pub mod readiness;

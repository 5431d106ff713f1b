//! Listeners, TLS, readiness, metrics, debug.

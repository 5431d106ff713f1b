//! The sidecar's side, for a stock Envoy.

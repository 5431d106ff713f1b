//! Pure functions from mesh values to Envoy messages.

pub mod cluster;
pub mod endpoint;
pub mod extension;
pub mod filter;
mod header_case;
pub mod input;
pub mod listener;
pub mod metadata;
pub mod naming;
pub mod patch;
pub mod rate_limit;
pub mod route;
pub mod secret;
pub mod tls;
pub mod trust;
pub(crate) mod wire;
pub mod wkt;

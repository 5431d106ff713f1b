//! What the objects mean. Pure: no clock, socket, file, thread, async or environment.

pub mod authorization;
pub mod by_ptr;
pub mod configured;
pub mod credential;
pub mod engine;
mod first_seen;
pub mod gateway;
pub mod model;
pub(in crate::mesh) mod names;
pub mod peer_authentication;
pub mod policy;
pub mod policy_table;
pub mod protocol;
pub mod providers;
pub mod proxy_config;
pub mod reach;
pub mod request_authentication;
pub mod routing;
pub mod scope;
pub mod settings;
pub mod sidecar;
pub mod telemetry;
pub mod traffic;
pub mod trust;
pub mod unsupported;
pub mod validate;
pub mod world;

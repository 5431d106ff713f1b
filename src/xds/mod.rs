//! Delivery: encode once, keep what each class of proxies is to have, speak ADS.

pub mod bounds;
pub mod classes;
pub mod codec;
pub mod debug;
pub mod dump;
pub mod encode;
pub mod ledger;
mod messages;
pub mod metrics;
pub mod node;
pub mod per_type;
mod redacted;
pub mod render;
pub mod resource;
pub mod resource_type;
pub mod secret_readers;
pub mod session;
mod stand_in;
pub mod static_bootstrap;
pub mod transport;
pub mod view;

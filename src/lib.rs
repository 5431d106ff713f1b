//! istiod-lite: a control plane for Envoy that takes istiod's place.
//!
//! Data moves one way: `source` → `mesh` → `translate` → `xds`. `docs/architecture.md` has the map.

mod agent;
pub mod api;
mod backoff;
pub mod budget;
mod cli;
pub mod clock;
mod common_bootstrap;
pub mod controllers;
pub mod identity;
pub mod mesh;
mod metric_tags;
mod metrics;
pub mod patience;
pub mod peer_text;
mod polls;
pub mod proto;
mod reflection;
pub mod serve;
mod signals;
mod source;
mod sparse_log;
mod status;
mod system_error;
mod timer;
pub mod translate;
pub mod version;
pub mod visits;
pub mod webhook;
mod workload_labels;
pub mod xds;

pub use cli::main;

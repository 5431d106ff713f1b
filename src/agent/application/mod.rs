//! The application beside the proxy, as the agent reaches it: probes on the kubelet's behalf, and its metrics.
//!
//! The kubelet and Prometheus stand outside the mesh and cannot speak mutual TLS; the agent's port is not captured, so they ask
//! there. What the agent may ask the application is fixed when the pod is made: nobody can make it ask anything else.

pub mod connection;
mod health;
pub mod probe;
pub mod scrape;

use std::collections::BTreeMap;

pub use self::{
    probe::{Answer, Prober},
    scrape::Scrape,
};

/// Probes and hooks by the path at which the kubelet asks the agent for them (`ISTIO_KUBE_APP_PROBERS`, contract §5.5).
pub type Probers = BTreeMap<String, Prober>;

/// What the agent may ask the application.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// On the kubelet's behalf.
    pub probers: Probers,
    /// Where its metrics are; `None`: it has none to be scraped.
    pub scrape: Option<Scrape>,
}

//! How the agent reaches the application beside the proxy: to probe it for the kubelet, and to scrape its metrics.
//!
//! The kubelet and Prometheus are outside the mesh and cannot speak mutual TLS; the agent's port is not captured, so they ask the
//! agent. What it may ask the application is fixed when the pod is created: nobody can make it send other requests.

pub(crate) mod connection;
mod health;
pub(crate) mod probe;
pub(crate) mod scrape;

use std::collections::BTreeMap;

pub(crate) use self::{
    probe::{ProbeAnswer, Prober},
    scrape::Scrape,
};

/// Probes and hooks, by the path under which the kubelet asks the agent for them (`ISTIO_KUBE_APP_PROBERS`, contract §5.5).
pub(crate) type Probers = BTreeMap<String, Prober>;

/// What the agent may ask the application.
#[derive(Clone, Debug, Default)]
pub(crate) struct Application {
    /// The probes and hooks.
    pub probers: Probers,
    /// Where its metrics are; `None`: it has none to scrape.
    pub scrape: Option<Scrape>,
}

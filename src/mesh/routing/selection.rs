//! Which routes apply at a listener of a proxy (contract §6.2).
//!
//! What is known when configuration is made (the listener's port and gateway, labels and namespace of the client) is
//! decided here and is never sent. Translation makes messages of what is left.

mod http;
mod l4;
mod sidecar;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use imbl::OrdMap;

use super::model::GatewayRef;
use crate::mesh::{
    model::{Hostname, Labels, Service},
    traffic::EffectiveDestinationRule,
};

pub use self::{
    http::{HttpSelection, ResolvedDestination},
    l4::{AppliedRule, l4_port, l4_sets},
    sidecar::{DEFAULT_HTTP_PORT, SelectedRoutes, http_port, sidecar_routes},
};

/// The listener that routes are selected for.
#[derive(Clone, Copy, Debug)]
pub struct RouteContext<'a> {
    /// Its port; at gateways the server's.
    pub port: u16,
    /// What it belongs to: `mesh`, or a Gateway.
    pub gateway: &'a GatewayRef,
    /// The workload that matches may ask for; `None`: what they ask of it holds.
    pub client: Option<Client<'a>>,
}

/// The workload that sends what is routed.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
}

/// What destinations are looked up in: all that the proxy sees.
#[derive(Clone, Copy, Debug)]
pub struct Backends<'a> {
    /// Services by hostname.
    pub services: &'a OrdMap<Hostname, Arc<Service>>,
    /// Their DestinationRules.
    pub destination_rules: &'a OrdMap<Hostname, Arc<EffectiveDestinationRule>>,
}

impl Client<'_> {
    fn has(&self, labels: &Labels) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

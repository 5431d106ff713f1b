//! What a proxy may see: services, routes and policies after `exportTo` and `Sidecar`.

mod build;
mod gateways;
mod imports;
mod key;
mod proxies;
mod rate_limits;
mod update;

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{
    model::{Hostname, Service},
    routing::{model::RouteSet, selection::Backends},
    sidecar::EgressListener,
    traffic::EffectiveDestinationRule,
    world::Sidecar,
};

#[cfg(test)]
pub use build::scope;
pub use build::scope_of;
pub use gateways::{gateways_for, routes_for_gateway};
pub use key::{ScopeKey, scope_key};
pub use proxies::{ServiceTarget, resolve_proxy, service_targets};
pub(in crate::mesh) use rate_limits::rate_limit_reach;
pub use rate_limits::{AppliedLimits, placed_limits, workload_rate_limits};

/// Outbound view of one group of proxies: same namespace, same Sidecar (or none), same kind.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The proxies' configuration namespace.
    pub namespace: SmolStr,
    /// The Sidecar object that applies; its ingress and inbound settings are read from here.
    pub sidecar: Option<Arc<Sidecar>>,
    /// One per egress listener, in the order of the Sidecar; exactly one without a port when there is no Sidecar.
    pub egress: Vec<EgressScope>,
    /// All services of all egress listeners: one per hostname (own namespace, then Kubernetes, then others).
    pub services: OrdMap<Hostname, Arc<Service>>,
    /// The merged DestinationRule by service hostname, for services that have one.
    pub destination_rules: OrdMap<Hostname, Arc<EffectiveDestinationRule>>,
    /// Whether unknown destinations pass (`ALLOW_ANY`) or not (`REGISTRY_ONLY`).
    pub allow_any: bool,
}

/// What one egress listener of a Sidecar shows.
#[derive(Clone, Debug)]
pub struct EgressScope {
    /// The Sidecar's listener; `None`: all ports.
    pub listener: Option<EgressListener>,
    /// Services that its hosts select (only those that have the listener's port, where there is one).
    pub services: OrdMap<Hostname, Arc<Service>>,
    /// Routes that apply to sidecars in this scope (`gateways` has `mesh`), by exact VirtualService host; each list in
    /// Istio's order. For one proxy and port the first of a list that has any routes for it wins.
    pub routes: OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>,
}

/// Routes by host, as they are listed.
type Routes = OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>;

impl Scope {
    /// Returns what routes look their destinations up in.
    pub fn backends(&self) -> Backends<'_> {
        Backends { services: &self.services, destination_rules: &self.destination_rules }
    }
}

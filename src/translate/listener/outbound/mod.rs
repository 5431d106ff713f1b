//! Listeners for what a sidecar's application sends (contract §3.3).
//!
//! Two steps. [`planned`] plans: it looks at all services of one port and decides, in Istio's order of age, who gets a
//! listener of its own, who shares one, and who loses. Its results are small values. [`listener`] turns one of them
//! into a message and looks at nothing else, so that an input is the memo key of its listener, and a service that
//! changes without changing a plan costs nothing.

mod candidates;
mod chains;
mod merge;
mod plan;
mod render;
mod routed;
mod table_names;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use envoy_types::pb::envoy::config::listener::v3::Listener;
use imbl::OrdMap;
use smol_str::{SmolStr, format_smolstr};

pub use self::table_names::route_tables;
use super::{chain::ChainMatch, refused::Refused};
use crate::{
    mesh::{
        model::{EndpointSet, Interception, Origin, ProxyPorts, Service, ServiceKey},
        scope::Scope,
        settings::MeshSettings,
    },
    translate::{
        filter::network::TcpTarget,
        input::{Built, ByPtr, ListenerClass, ProxyClass},
    },
};

/// What the outbound listeners of a sidecar follow from.
#[derive(Clone, Copy, Debug)]
pub struct OutboundView<'a> {
    /// What it sees.
    pub scope: &'a Scope,
    /// Its class.
    pub class: &'a ProxyClass,
    /// Mesh-wide settings.
    pub mesh: &'a Arc<MeshSettings>,
    /// Read for headless services alone: each of their addresses gets a listener.
    pub endpoints: &'a OrdMap<ServiceKey, Arc<EndpointSet>>,
    /// The proxy's own addresses, at which there is no such listener.
    pub own: &'a [IpAddr],
    /// Ports that it holds already or cannot have.
    pub ports: ProxyPorts,
}

/// The listeners of a group, and what has no place in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// What is sent.
    pub listeners: Vec<ListenerInput>,
    /// What is not.
    pub refused: BTreeSet<Refused>,
}

/// Listeners that are planned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// `virtualOutbound`, and the explicit HTTP proxy where there is one.
    Fixed,
    /// All listeners of a port; 0 stands for Unix domain sockets.
    Port(u16),
}

/// Everything that one outbound listener is made of, and the key of its memo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerInput {
    class: ListenerClass,
    mesh: ByPtr<MeshSettings>,
    allow_any: bool,
    plan: Plan,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Plan {
    Virtual,
    HttpProxy(u16),
    Service(ServiceListener),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ServiceListener {
    /// The first gives the name.
    binds: Vec<SmolStr>,
    port: u16,
    /// Whether it binds its port, because nothing is captured there.
    bound: bool,
    chains: Vec<Chain>,
    /// The object that opened the listener.
    origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Chain {
    matcher: ChainMatch,
    target: Target,
    /// The VirtualService that made it.
    config: Option<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Http {
        /// Name of the route configuration.
        routes: SmolStr,
        sniffed: bool,
        grpc_web: bool,
        dns_cache: Option<SmolStr>,
    },
    Tcp(TcpTarget),
}

/// Returns the groups that a scope has.
pub fn groups(view: OutboundView<'_>) -> BTreeSet<Group> {
    let mut groups = BTreeSet::new();
    if view.class.interception != Interception::None || view.mesh.proxy_http_port != 0 {
        groups.insert(Group::Fixed);
    }
    for egress in &view.scope.egress {
        match egress.listener.as_ref().and_then(|listener| listener.port) {
            Some(port) => drop(groups.insert(Group::Port(port))),
            None => groups.extend(egress.services.values().flat_map(|service| &service.ports).map(|port| Group::Port(port.number))),
        }
    }
    groups
}

/// Plans the listeners of one group.
pub fn planned(view: OutboundView<'_>, group: Group) -> Planned {
    let planner = plan::Planner::new(view);
    match group {
        Group::Fixed => planner.fixed(),
        Group::Port(port) => planner.port(port, &candidates::candidates(view.scope, port)),
    }
}

/// Plans all listeners of a scope in one walk over its services.
pub fn all_planned(view: OutboundView<'_>) -> BTreeMap<Group, Planned> {
    let planner = plan::Planner::new(view);
    let mut candidates = candidates::all_candidates(view.scope);
    let planned = groups(view).into_iter().map(|group| {
        let planned = match group {
            Group::Fixed => planner.fixed(),
            Group::Port(port) => planner.port(port, &candidates.remove(&port).unwrap_or_default()),
        };
        (group, planned)
    });
    planned.filter(|(_, planned)| *planned != Planned::default()).collect()
}

/// Makes the listener.
pub fn listener(input: &ListenerInput) -> Built<Listener> {
    render::listener(input)
}

impl ListenerInput {
    /// Returns the name of the listener.
    pub fn name(&self) -> SmolStr {
        match &self.plan {
            Plan::Virtual => "virtualOutbound".into(),
            Plan::HttpProxy(port) => format_smolstr!("{}_{port}", self.class.localhost()),
            Plan::Service(service) => service.name(),
        }
    }
}

impl ServiceListener {
    fn name(&self) -> SmolStr {
        format_smolstr!("{}_{}", self.binds.first().map_or("", SmolStr::as_str), self.port)
    }
}

/// Returns the name of the DNS cache of a service whose destination comes from the request.
fn dns_cache(service: &Service) -> Option<SmolStr> {
    let dynamic = service.resolution == crate::mesh::model::Resolution::DynamicDns && service.hostname.is_wildcard();
    dynamic.then(|| format_smolstr!("{}_dfp_dns_cache", service.hostname))
}

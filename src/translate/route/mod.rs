//! Route configurations (contract §3.6, §3.7, §6.2).
//!
//! The virtual host is the unit: [`table`] and [`gateway_tables`] say which virtual hosts a route configuration holds,
//! each by an input of its own, and [`virtual_host`] builds one from its input and nothing else. The configuration is
//! [`route_configuration_header`] followed by the encoded virtual hosts.

mod action;
mod build;
mod domains;
mod filters;
mod gateway;
mod matching;
mod sharing;
mod sidecar;

use std::{fmt, sync::Arc};

use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use smol_str::SmolStr;

pub use self::{
    gateway::{GatewayTables, gateway_tables},
    sidecar::{existing_tables, table, tables, tables_with},
};
use super::{
    input::{Built, ByPtr, RouteTraits},
    wkt,
};
use crate::mesh::{
    model::{Hostname, Origin},
    routing::selection::HttpSelection,
    settings::MeshSettings,
    traffic::EffectiveDestinationRule,
};

/// The route table of an HTTP proxy on 127.0.0.1 (`proxyHttpPort`).
pub const HTTP_PROXY: &str = "http_proxy";

/// A route configuration, not yet built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTable {
    /// The resource's name.
    pub name: SmolStr,
    /// Its virtual hosts, in order.
    pub hosts: Vec<VirtualHostInput>,
    /// Domains that another virtual host has: Envoy refuses a table in which one is twice.
    pub lost: Vec<LostDomain>,
    /// The ports of the servers that it is for, if it is a gateway's.
    pub servers: Option<Vec<u16>>,
}

/// A domain that an object asked for, and that the table gave to another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LostDomain {
    /// Who does not get it.
    pub object: Origin,
    /// The domain.
    pub domain: SmolStr,
    /// Who has it; `None`: the table itself, for all destinations that nothing else names.
    pub holder: Option<Origin>,
}

/// All that decides how one virtual host looks: equal inputs, equal virtual hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualHostInput {
    name: SmolStr,
    domains: Vec<SmolStr>,
    traits: RouteTraits,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Content {
    /// A service without routes of its own.
    Service(DefaultRoute),
    /// Routes that users wrote.
    Routes {
        mesh: ByPtr<MeshSettings>,
        selections: Vec<Arc<HttpSelection>>,
        /// Whether requests come in by TLS that the gateway terminates.
        tls: bool,
        /// Whether plaintext requests are redirected.
        require_tls: bool,
    },
    /// Unknown destinations pass.
    AllowAny,
    /// Unknown destinations are refused.
    BlockAll,
    /// A service for which this object has too many routes: it gets none.
    Closed(Origin),
    /// A gateway without routes: no request finds one.
    BlackHole,
}

/// The default route of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DefaultRoute {
    mesh: ByPtr<MeshSettings>,
    host: Hostname,
    port: u16,
    /// Only where it asks for a consistent hash.
    hash: Option<ByPtr<EffectiveDestinationRule>>,
    origin: Origin,
}

/// Builds the virtual host of an input.
pub fn virtual_host(input: &VirtualHostInput) -> Built<VirtualHost> {
    build::virtual_host(input)
}

/// Returns what stands in for a virtual host that cannot be sent: it keeps its domains, and answers every request with 503.
pub fn closed(host: &VirtualHost) -> VirtualHost {
    build::closed(host)
}

/// Returns a route configuration without its virtual hosts.
pub fn route_configuration_header(table: &RouteTable) -> RouteConfiguration {
    RouteConfiguration {
        name: table.name.to_string(),
        validate_clusters: wkt::boolean(false),
        max_direct_response_body_size_bytes: wkt::uint32(1024 * 1024),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

impl fmt::Display for LostDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(holder) => write!(f, "{} has the domain {} already: no request for it comes here", holder.object, self.domain),
            None => write!(f, "{} stands for all other destinations already: no request for it comes here", self.domain),
        }
    }
}

impl DefaultRoute {
    fn new(
        mesh: &Arc<MeshSettings>,
        service: &crate::mesh::model::Service,
        port: u16,
        rule: Option<&Arc<EffectiveDestinationRule>>,
    ) -> Self {
        let hash = rule.filter(|rule| rule.hash_key("", port).is_some()).map(Into::into);
        Self { mesh: mesh.into(), host: service.hostname.clone(), port, hash, origin: service.origin.clone() }
    }
}

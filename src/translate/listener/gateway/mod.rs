//! Listeners of gateways, and which servers feed which route configuration (contract §3.7).

mod chains;
mod plan;
mod render;
mod server_tls;

use std::{collections::BTreeSet, sync::Arc};

use envoy_types::pb::envoy::config::listener::v3::Listener;
use smol_str::{SmolStr, format_smolstr};

use self::server_tls::ServerTls;
use super::{chain::ChainMatch, refused::Refused};
use crate::{
    mesh::{
        gateway::ListenerHost,
        model::{Origin, ProxyPorts},
        policy::{request_authentication::TokenRules, workload::WorkloadPolicies},
        scope::{Scope, ServiceTarget},
        settings::MeshSettings,
        world::{Gateway, World},
    },
    translate::{
        filter::network::TcpTarget,
        input::{Built, ByPtr, ListenerClass, ProxyClass},
    },
};

/// What decides about the listeners of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewayView<'a> {
    /// Its class.
    pub class: &'a ProxyClass,
    /// Mesh-wide settings.
    pub mesh: &'a Arc<MeshSettings>,
    /// The Gateways that select it, in any order.
    pub gateways: &'a [Arc<Gateway>],
    /// Where the routes that are bound to its Gateways are found.
    pub world: &'a World,
    /// Services and DestinationRules that it sees.
    pub scope: &'a Scope,
    /// Which tokens it takes.
    pub tokens: &'a Arc<TokenRules>,
    /// Service ports that select it: a server's port is the service's, the listener's is the pod's.
    pub targets: &'a [ServiceTarget],
    /// What decides about requests to it.
    pub policies: &'a WorkloadPolicies,
    /// Ports that it holds already or cannot have.
    pub ports: ProxyPorts,
}

/// What a gateway has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayPlan {
    /// Its listeners, by name.
    pub listeners: Vec<GatewayListenerInput>,
    /// Its route configurations, by name.
    pub tables: Vec<GatewayRouteTable>,
    /// What of its Gateways and routes was left out, and why.
    pub refused: BTreeSet<Refused>,
}

/// Everything that one listener of a gateway is made of, and the key of its memo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayListenerInput {
    class: ListenerClass,
    mesh: ByPtr<MeshSettings>,
    tokens: Arc<TokenRules>,
    bind: SmolStr,
    port: u16,
    chains: Vec<Chain>,
    policies: WorkloadPolicies,
    origins: Vec<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Chain {
    matcher: ChainMatch,
    target: Target,
    tls: Option<ServerTls>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Http { routes: SmolStr, grpc_web: bool },
    Tcp(TcpTarget),
}

/// A route configuration of a gateway, with the servers whose hosts it serves, in Istio's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayRouteTable {
    /// `http.8080`, `https.443.https.public.shop`
    pub name: SmolStr,
    /// Never empty.
    pub servers: Vec<RoutedServer>,
}

/// One server of a Gateway as far as routes are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoutedServer {
    /// The Gateway.
    pub origin: Origin,
    /// Where it asks for the server (`spec.servers[0]`).
    pub field: SmolStr,
    /// The server's own port number: what `match.port` means, and the number in virtual hosts' names.
    pub port: u16,
    /// What it serves.
    pub hosts: Vec<ListenerHost>,
    /// `tls.httpsRedirect`: whether virtual hosts answer plaintext requests with a redirect.
    pub https_redirect: bool,
}

/// Plans the listeners and route configurations of a gateway.
pub fn plan(view: GatewayView<'_>) -> GatewayPlan {
    plan::plan(view)
}

/// Makes a listener.
pub fn listener(input: &GatewayListenerInput) -> Built<Listener> {
    render::listener(input)
}

impl GatewayListenerInput {
    /// Returns the name of the listener.
    pub fn name(&self) -> SmolStr {
        format_smolstr!("{}_{}", self.bind, self.port)
    }
}

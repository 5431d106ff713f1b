//! Listeners of gateways, and which servers feed which route configuration (contract §3.7).

mod plan;
mod render;
mod server_tls;

use std::{fmt, sync::Arc};

use envoy_types::pb::envoy::config::listener::v3::Listener;
use smol_str::{SmolStr, format_smolstr};

use self::server_tls::ServerSecrets;
use super::chain::ChainMatch;
use crate::{
    mesh::{
        model::{Hostname, Origin},
        scope::{Scope, ServiceTarget},
        settings::MeshSettings,
        world::{Gateway, NamedKey, World},
    },
    translate::{
        filter::network::TcpTarget,
        input::{Built, ByPtr, ListenerClass, ProxyClass},
    },
};

/// What the listeners of a gateway follow from.
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
    /// Service ports that select it: a server's port is the service's, the listener's is the pod's.
    pub targets: &'a [ServiceTarget],
    /// It may not bind ports below 1024.
    pub unprivileged: bool,
}

/// What a gateway has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayPlan {
    /// Its listeners, by name.
    pub listeners: Vec<GatewayListenerInput>,
    /// Its route configurations, by name.
    pub tables: Vec<GatewayRouteTable>,
    /// Servers that were left out, and why.
    pub refused: Vec<RefusedServer>,
}

/// A server that gets no listener because another one was there first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefusedServer {
    /// The Gateway.
    pub gateway: Origin,
    /// Position in `servers`.
    pub server: usize,
    /// What stands in the way.
    pub reason: Refusal,
}

/// Why a server is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An older server of another kind holds the port.
    PortTaken(u16),
    /// An older server on the port holds the TLS host.
    HostTaken(Hostname),
    /// The gateway may not bind the port.
    Privileged(u16),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken(port) => write!(f, "port {port} is held by an older server of another kind"),
            Self::HostTaken(host) => write!(f, "an older server on this port has the TLS host {host}"),
            Self::Privileged(port) => write!(f, "the gateway may not bind port {port} (below 1024)"),
        }
    }
}

/// Everything that one listener of a gateway is made of, and the key of its memo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayListenerInput {
    class: ListenerClass,
    mesh: ByPtr<MeshSettings>,
    bind: SmolStr,
    port: u16,
    chains: Vec<Chain>,
    origins: Vec<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Chain {
    matcher: ChainMatch,
    target: Target,
    tls: Option<ServerSecrets>,
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
    /// `(namespace, name)` of the Gateway.
    pub gateway: NamedKey,
    /// The server's own port number: what `match.port` means, and the number in virtual hosts' names.
    pub port: u16,
    /// What it serves.
    pub hosts: Vec<ServerHost>,
    /// `tls.httpsRedirect`: virtual hosts answer plaintext requests with a redirect.
    pub https_redirect: bool,
}

/// One of a server's `hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerHost {
    /// Only VirtualServices of this namespace may bind to it; `None`: any.
    pub namespace: Option<SmolStr>,
    /// May be a wildcard.
    pub host: Hostname,
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
    /// The name of the listener.
    pub fn name(&self) -> SmolStr {
        format_smolstr!("{}_{}", self.bind, self.port)
    }
}

impl ServerHost {
    /// Reads `[namespace/]host` as written in a Gateway of `own` (`.` is that namespace, `*` any).
    pub fn parse(written: &str, own: &str) -> Self {
        match written.split_once('/') {
            None | Some(("*", _)) => Self { namespace: None, host: Hostname::new(written.rsplit('/').next().unwrap_or(written)) },
            Some((".", host)) => Self { namespace: Some(own.into()), host: Hostname::new(host) },
            Some((namespace, host)) => Self { namespace: Some(namespace.into()), host: Hostname::new(host) },
        }
    }

    /// Whether a route set of that namespace may serve some name of this host.
    pub fn admits(&self, namespace: &str, host: &Hostname) -> bool {
        self.namespace.as_ref().is_none_or(|own| own == namespace) && self.host.overlaps(host)
    }
}

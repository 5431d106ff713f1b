//! Listeners of gateways, and which servers feed which route configuration (contract §3.7).

use smol_str::SmolStr;

use crate::mesh::{model::Hostname, world::NamedKey};

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

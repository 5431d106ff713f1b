//! The one route model: what VirtualService (and later HTTPRoute) means, with every name resolved.
//!
//! Conversion fills it; translation reads nothing else about routes.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

use crate::mesh::model::{Hostname, Labels, Origin, Precedence, Visibility};

pub use crate::api::istio::{
    AbortStatus, CorsPolicy, Fault, HeaderChanges, HeaderOperations, Redirect, RedirectPort, RetryPolicy, Rewrite, Share, StringMatch,
};

/// The routes of one VirtualService, delegates already merged in.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSet {
    /// Name of the object (a root's, when delegates were merged).
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
    /// Fully qualified hosts, in the order written.
    pub hosts: Vec<Hostname>,
    /// Where the routes apply.
    pub gateways: Vec<GatewayRef>,
    /// Who may use them.
    pub export_to: Visibility,
    /// HTTP routes, in order.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS that is not terminated, in order.
    pub tls: Vec<TlsRoute>,
    /// Routes for other TCP, in order.
    pub tcp: Vec<TcpRoute>,
    /// Age, for order.
    pub precedence: Precedence,
    /// API version of the object, for `metadata.istio.config` (`v1`).
    pub origin: Origin,
    /// Objects besides the origin that were merged in (delegates).
    pub merged: Vec<Origin>,
}

/// `gateways:` of a VirtualService.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    /// `mesh`: all sidecars.
    Mesh,
    /// A Gateway object.
    Gateway {
        /// Its namespace.
        namespace: SmolStr,
        /// Its name.
        name: SmolStr,
    },
}

/// One `http:` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// `name`, for a delegate's route `root-delegate`.
    pub name: SmolStr,
    /// Any of these must hold; none: everything matches.
    pub matches: Vec<HttpMatch>,
    /// What happens to the request.
    pub action: HttpAction,
    /// `None` or zero: no timeout.
    pub timeout: Option<Duration>,
    /// `None`: the mesh default.
    pub retries: Option<RetryPolicy>,
    /// Faults to inject.
    pub fault: Option<Fault>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// CORS.
    pub cors: Option<CorsPolicy>,
    /// Header operations for all destinations.
    pub headers: HeaderOperations,
    /// URI and authority rewrite.
    pub rewrite: Option<Rewrite>,
}

/// One `match:` block: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// `name` of the block, appended to the route's name.
    pub name: SmolStr,
    /// Path.
    pub uri: Option<StringMatch>,
    /// `ignoreUriCase`
    pub ignore_uri_case: bool,
    /// `:scheme`
    pub scheme: Option<StringMatch>,
    /// `:method`
    pub method: Option<StringMatch>,
    /// `:authority`
    pub authority: Option<StringMatch>,
    /// By header name; sorted.
    pub headers: Vec<(SmolStr, StringMatch)>,
    /// Headers that must not match; sorted.
    pub without_headers: Vec<(SmolStr, StringMatch)>,
    /// By query parameter; sorted.
    pub query_params: Vec<(SmolStr, StringMatch)>,
    /// The listener's (or server's) port.
    pub port: Option<u16>,
    /// Labels that the client's workload must have.
    pub source_labels: Labels,
    /// The client's namespace.
    pub source_namespace: Option<SmolStr>,
    /// Narrower than the object's gateways when not empty.
    pub gateways: Vec<GatewayRef>,
    /// `statPrefix`
    pub stat_prefix: SmolStr,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction {
    /// Sends the request to one of these, by weight.
    Forward(Vec<WeightedDestination>),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers itself.
    DirectResponse {
        /// Status code.
        status: u32,
        /// Body; empty for none.
        body: Arc<[u8]>,
    },
}

/// One `route:` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedDestination {
    /// Where to.
    pub destination: Destination,
    /// As written; 0 when not written.
    pub weight: u32,
    /// Header operations for this destination alone.
    pub headers: HeaderOperations,
}

/// A resolved destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Fully qualified.
    pub host: Hostname,
    /// Empty: no subset.
    pub subset: SmolStr,
    /// As written; else translation infers it.
    pub port: Option<u16>,
}

/// `mirror(s):`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Where copies go.
    pub destination: Destination,
    /// How many.
    pub share: Share,
}

/// One `tls:` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRoute {
    /// Any of these.
    pub matches: Vec<L4Match>,
    /// Where connections go, by weight.
    pub destinations: Vec<WeightedDestination>,
}

/// One `tcp:` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// Any of these; none: every connection.
    pub matches: Vec<L4Match>,
    /// Where connections go, by weight.
    pub destinations: Vec<WeightedDestination>,
}

/// Match of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L4Match {
    /// `sniHosts` (TLS only).
    pub sni_hosts: Vec<Hostname>,
    /// `destinationSubnets`
    pub destination_subnets: Vec<SmolStr>,
    /// The listener's port.
    pub port: Option<u16>,
    /// Labels that the client's workload must have.
    pub source_labels: Labels,
    /// The client's namespace.
    pub source_namespace: Option<SmolStr>,
    /// Narrower than the object's gateways when not empty.
    pub gateways: Vec<GatewayRef>,
}

impl RouteSet {
    /// Whether the routes (as a whole) apply at `gateway`.
    pub fn applies_at(&self, gateway: &GatewayRef) -> bool {
        self.gateways.contains(gateway)
    }

    /// Istio's order among routes that meet: exported to nobody else first, then to some, then to all; then by age.
    pub fn order(&self) -> (u8, &Precedence) {
        let narrow = match &self.export_to {
            Visibility::Namespaces(names) if names.iter().all(|name| *name == self.namespace) => 0,
            Visibility::Namespaces(_) | Visibility::None => 1,
            Visibility::Public => 2,
        };
        (narrow, &self.precedence)
    }
}

//! `networking.istio.io VirtualService`: the object, its destinations and its TLS and TCP routes.

use smol_str::SmolStr;

use super::{HeaderOperations, HttpRoute};
use crate::api::Labels;

/// `spec` of a VirtualService.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualService {
    /// `hosts`, as written; empty if the object is a delegate.
    pub hosts: Vec<SmolStr>,
    /// `gateways`, as written; empty for `mesh`.
    pub gateways: Vec<SmolStr>,
    /// `exportTo`, as written.
    pub export_to: Vec<SmolStr>,
    /// `http`, in order.
    pub http: Vec<HttpRoute>,
    /// `tls`, in order.
    pub tls: Vec<TlsRoute>,
    /// `tcp`, in order.
    pub tcp: Vec<TcpRoute>,
}

/// `destination`: where requests, connections or copies go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Destination {
    /// `host`, as written: a short name is relative to the object's namespace.
    pub host: SmolStr,
    /// `subset`; empty for none.
    pub subset: SmolStr,
    /// `port.number`; `None` if it is inferred.
    pub port: Option<u16>,
}

/// `route[]` of `http`, `tls` and `tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteDestination {
    /// `destination`
    pub destination: Destination,
    /// `weight`; 0 if absent.
    pub weight: u32,
    /// `headers` (HTTP only).
    pub headers: HeaderOperations,
}

/// `tls[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRoute {
    /// `match`: one of these must match.
    pub matches: Vec<L4Match>,
    /// `route`
    pub route: Vec<RouteDestination>,
}

/// `tcp[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpRoute {
    /// `match`: one of these must match; every connection matches if there are none.
    pub matches: Vec<L4Match>,
    /// `route`
    pub route: Vec<RouteDestination>,
}

/// `match[]` of `tls` and `tcp`: all that is set must hold. `sourceSubnet` has no effect in Istio either.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L4Match {
    /// `sniHosts` (TLS only), as written.
    pub sni_hosts: Vec<SmolStr>,
    /// `destinationSubnets`
    pub destination_subnets: Vec<SmolStr>,
    /// `port` of the listener.
    pub port: Option<u16>,
    /// `sourceLabels`
    pub source_labels: Labels,
    /// `sourceNamespace`
    pub source_namespace: Option<SmolStr>,
    /// `gateways`, as written; empty for those of the object.
    pub gateways: Vec<SmolStr>,
}

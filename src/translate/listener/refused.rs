//! What an object asks of a proxy's listeners that the proxy cannot have: Envoy judges a listener's chains, and the addresses
//! of all listeners, as a whole, and would refuse what others share with it.

use std::fmt;

use smol_str::SmolStr;

use super::held::Holder;
use crate::mesh::{
    gateway::{Refusal, RefusedListener},
    model::{Hostname, ObjectKey, Origin, Protocol},
    telemetry::UnseenCollector,
};

/// Something that is not sent, so that the rest can be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Refused {
    /// The object that asks for it.
    pub origin: Origin,
    /// Where it does (`spec.ports`).
    pub field: SmolStr,
    /// What stands in the way.
    pub reason: Reason,
}

/// Why something is not sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A server of a Gateway has no place.
    Server(Refusal),
    /// The proxy itself, or its Sidecar, listens there.
    Held(u16, Holder),
    /// The proxy may not bind the port.
    Privileged(u16),
    /// Connections on the port that it would take are another object's, which came first.
    Outranked(u16, ObjectKey),
    /// No connection can ask for a wildcard by its SNI, as AUTO_PASSTHROUGH needs it.
    NoServerName(Hostname),
    /// Envoy does not know the wildcard among server names.
    PartialWildcard(u16, SmolStr),
    /// A server of a Gateway from which nothing leads on.
    LeadsNowhere(u16, Onward),
    /// A port whose protocol is not declared took the place of its HTTP port.
    Replaced(u16, ObjectKey),
    /// Routes are too many for all the servers that have them, one of them on this port.
    TooManyRoutes(u16),
    /// Proxies of a namespace have no cluster for a port of a service to which they should report.
    UnseenCollector(Hostname, u16, SmolStr),
    /// The proxy runs no WebAssembly. Whether its traffic passes all the same.
    NoWasm(bool),
    /// Nobody fetches a module for the proxy. Whether its traffic passes all the same.
    NotFetched(bool),
    /// The workload's port is taken to speak what another Service declares, which came first.
    Declared(u16, Protocol, ObjectKey),
}

/// What leads on from a server of a Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Onward {
    /// `http` routes of VirtualServices.
    Http,
    /// `tls` routes.
    Tls,
    /// `tcp` routes.
    Tcp,
    /// The services themselves, in mode AUTO_PASSTHROUGH.
    Services,
}

impl Refused {
    /// Returns what names an object, where it asks for something, and why that is not sent.
    pub fn new(origin: &Origin, field: impl Into<SmolStr>, reason: Reason) -> Self {
        Self { origin: origin.clone(), field: field.into(), reason }
    }
}

impl From<RefusedListener> for Refused {
    fn from(refused: RefusedListener) -> Self {
        Self { origin: refused.gateway, field: refused.field, reason: Reason::Server(refused.reason) }
    }
}

impl From<UnseenCollector> for Refused {
    fn from(unseen: UnseenCollector) -> Self {
        let UnseenCollector { origin, field, hostname, port, namespace } = unseen;
        Self { origin, field, reason: Reason::UnseenCollector(hostname, port, namespace) }
    }
}

fn meanwhile(open: bool) -> &'static str {
    if open { "their traffic passes without the module, as failStrategy says" } else { "their traffic is refused, as failStrategy says" }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(refusal) => write!(f, "{refusal}: this server gets no listener"),
            Self::Held(port, holder) => write!(f, "port {port} is {holder}: there is no other listener on it; use another port"),
            Self::Privileged(port) => write!(f, "port {port} gets no listener in proxies that may not bind ports below 1024"),
            Self::Outranked(port, by) => {
                write!(f, "connections on port {port} that this would take go where {by} says, which came first")
            }
            Self::NoServerName(host) => {
                write!(f, "{host} cannot be reached through a server of mode AUTO_PASSTHROUGH: it is no single name")
            }
            Self::PartialWildcard(port, name) => {
                write!(
                    f,
                    "TLS connections for {name} on port {port} are not told from others: a wildcard in a server name is a whole label"
                )
            }
            Self::LeadsNowhere(port, Onward::Services) => {
                write!(f, "no service has one of these hosts: connections for them on port {port} are not taken")
            }
            Self::LeadsNowhere(port, Onward::Http) => {
                write!(f, "no VirtualService has http routes for these hosts that are bound here: requests for them on port {port} get 404")
            }
            Self::LeadsNowhere(port, onward) => {
                let routes = if *onward == Onward::Tls { "tls" } else { "tcp" };
                write!(
                    f,
                    "no VirtualService has {routes} routes for this port and these hosts that are bound here: connections for them on \
                     port {port} are not taken"
                )
            }
            Self::UnseenCollector(host, port, namespace) => {
                write!(
                    f,
                    "proxies of namespace {namespace} see no port {port} of {host} (it is not exported to them, or a Sidecar does not import \
                     it): nothing is reported to it"
                )
            }
            Self::Declared(port, protocol, by) => {
                let spoken =
                    if *protocol == Protocol::Auto { "what is sniffed".to_owned() } else { format!("{protocol:?}").to_uppercase() };
                write!(f, "workloads take {spoken} on their port {port}, as {by} declares, which came first: declare the same protocol")
            }
            Self::NoWasm(open) => {
                let then = meanwhile(*open);
                write!(f, "some of its proxies were built without what runs WebAssembly (V8): {then}")
            }
            Self::NotFetched(open) => {
                let then = meanwhile(*open);
                write!(f, "some of its proxies have no agent beside them that fetches modules: {then} (a file:// needs none)")
            }
            Self::TooManyRoutes(port) => {
                write!(
                    f,
                    "are too many routes for all the servers that they are bound to, each of which has them all: requests for them on port {port} get 503"
                )
            }
            Self::Replaced(port, by) => {
                write!(f, "requests on port {port} go to {by}, which does not declare its protocol and so takes the whole listener")
            }
        }
    }
}

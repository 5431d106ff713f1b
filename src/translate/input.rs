//! What translation works on. A function gets exactly the values that make up its key, so that its result can be
//! remembered by its input and a stale result cannot exist (architecture, rule 4).

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

pub use crate::mesh::by_ptr::ByPtr;

use crate::mesh::{
    extension::PlacedExtension,
    model::{
        Disabled, ExactBalance, Flavour, GatewayTopology, Interception, Labels, MetricsPlan, Origin, ProxyHeaders, ProxyKind,
        TelemetryIdentity,
    },
    telemetry::SideTelemetry,
};

/// What about a proxy decides how shared resources look: proxies of equal class and scope get equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyClass {
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// Stock Envoy or Istio's.
    pub flavour: Flavour,
    /// Capture mode.
    pub interception: Interception,
    /// Configuration namespace: short names are relative to it.
    pub namespace: SmolStr,
    /// `<ns>.svc.<domain>`
    pub dns_domain: SmolStr,
    /// It has an IPv4 address.
    pub ipv4: bool,
    /// It has an IPv6 address.
    pub ipv6: bool,
    /// Accepts HTTP/1.0.
    pub http10: bool,
    /// `IDLE_TIMEOUT`
    pub idle_timeout: Option<Duration>,
    /// Its labels, as far as some route's `sourceLabels` can tell proxies apart by them.
    pub labels: Arc<Labels>,
    /// Whether the proxies of the mesh tell each other who they are, for metrics.
    pub peers: bool,
    /// What it does to headers, as far as routes say that.
    pub routes: RouteTraits,
    /// Whether names of HTTP/1 headers keep their case.
    pub preserves_case: bool,
    /// What listeners alone read; the default value for what is no listener.
    pub listener: ListenerTraits,
}

/// What of a proxy its routes read; the default value for what is usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteTraits {
    /// Whether nobody is told how often a request was tried.
    pub omits_attempts: bool,
    /// Whether the host that a client asked for is kept in `x-forwarded-host` where a route writes another one.
    pub keeps_host: bool,
}

/// What of a proxy its listeners read, and nothing else that it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerTraits {
    /// Names for traces. Istio's flavour writes them into each listener as istiod does; in the stock flavour this is
    /// the default value, and environment tags stand in.
    pub telemetry: Arc<TelemetryIdentity>,
    /// How listeners share connections out among threads.
    pub exact_balance: ExactBalance,
    /// What stands in front of a gateway; the default value for listeners of sidecars.
    pub topology: GatewayTopology,
    /// Which of Istio's metrics they report.
    pub metrics: MetricsPlan,
    /// What is reported of the traffic that passes them.
    pub reports: Arc<SideTelemetry>,
    /// Which headers of its own the proxy puts into requests and answers.
    pub headers: Arc<ProxyHeaders>,
    /// The service that spans name, where the listener says it; else the default value.
    pub service_name: SmolStr,
    /// Code of users' own that it runs, in the order in which it goes first.
    pub extensions: Arc<[PlacedExtension]>,
}

/// What a listener reads of a proxy's class: proxies of several namespaces may share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerClass {
    /// Stock Envoy or Istio's.
    pub flavour: Flavour,
    /// Capture mode.
    pub interception: Interception,
    /// Whether it has an IPv4 address (or none at all).
    pub ipv4: bool,
    /// It has an IPv6 address.
    pub ipv6: bool,
    /// Accepts HTTP/1.0.
    pub http10: bool,
    /// `IDLE_TIMEOUT`
    pub idle_timeout: Option<Duration>,
    /// What listeners alone read.
    pub own: ListenerTraits,
}

/// A translated message, with what delivery needs to know about it.
#[derive(Clone, Debug)]
pub struct Built<M> {
    /// The Envoy message.
    pub message: M,
    /// The objects that it came from.
    pub origins: Vec<Origin>,
    /// Names of the clusters that it sends traffic to: it is not sent before them.
    pub clusters: Vec<SmolStr>,
    /// Route configurations that it subscribes to.
    pub routes: Vec<SmolStr>,
    /// Extension configurations that it subscribes to.
    pub extensions: Vec<SmolStr>,
}

impl<M> Built<M> {
    /// Returns a message that refers to nothing.
    pub fn new(message: M, origins: impl IntoIterator<Item = Origin>) -> Self {
        Self { message, origins: origins.into_iter().collect(), clusters: Vec::new(), routes: Vec::new(), extensions: Vec::new() }
    }
}

// === impl RouteTraits ===

impl RouteTraits {
    /// Takes what routes say of a proxy's headers.
    pub fn of(headers: &ProxyHeaders) -> Self {
        Self { omits_attempts: headers.attempt_count == Some(Disabled(true)), keeps_host: headers.forwarded_host.unwrap_or_default() }
    }
}

// === impl ProxyClass ===

impl ProxyClass {
    /// Returns the class of what is no listener: equal for proxies that only their listeners tell apart.
    pub fn without_listeners(&self) -> Self {
        Self { listener: ListenerTraits::default(), ..self.clone() }
    }
}

// === impl ListenerClass ===

impl ListenerClass {
    /// Takes the part of a class.
    pub fn of(class: &ProxyClass) -> Self {
        Self {
            flavour: class.flavour,
            interception: class.interception,
            ipv4: class.ipv4 || !class.ipv6,
            ipv6: class.ipv6,
            http10: class.http10,
            idle_timeout: class.idle_timeout,
            own: class.listener.clone(),
        }
    }

    /// Returns the address that means all.
    pub fn wildcard(&self) -> &'static str {
        if self.ipv4 { "0.0.0.0" } else { "::" }
    }

    /// Returns the address that means this host.
    pub fn localhost(&self) -> &'static str {
        if self.ipv4 { "127.0.0.1" } else { "::1" }
    }

    /// Returns the addresses that come in addition to [`Self::wildcard`] and [`Self::localhost`], on hosts with both
    /// families.
    pub fn dual_stack(&self) -> bool {
        self.ipv4 && self.ipv6
    }
}

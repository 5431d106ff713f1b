//! Sidecar objects: what a proxy sees of the mesh, and where it takes traffic in (contract §6.5).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use smol_str::SmolStr;

use super::{
    model::{Hostname, Interception, Labels, Protocol},
    protocol,
    settings::OutboundTrafficPolicy,
    traffic::{ConnectionPool, istio::connection_pool},
    unsupported,
};
use crate::api::istio;

/// What one Sidecar says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// The labels of the workloads that it is for; `None`: all of its namespace.
    pub workload_selector: Option<Labels>,
    /// Where traffic is taken in; empty: at the ports of the workload's services.
    pub ingress: Vec<Ingress>,
    /// What is seen of the mesh; empty: everything.
    pub egress: Vec<Egress>,
    /// What happens to outbound traffic for unknown destinations; `None`: as the mesh says. Blocked where it was to go
    /// through a proxy of the user's, which is not supported yet: it must not go past it.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// Limits of inbound connections.
    pub inbound_connection_pool: Option<ConnectionPool>,
}

/// A listener for traffic to the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The port.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Address or `unix://…`; empty: the workload's own address.
    pub bind: SmolStr,
    /// Whether its traffic is captured.
    pub capture: CaptureMode,
    /// Where the application takes the traffic.
    pub default_endpoint: DefaultEndpoint,
    /// Limits of its connections.
    pub connection_pool: Option<ConnectionPool>,
}

/// Whether a listener gets traffic by capture or binds its port itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CaptureMode {
    /// As the proxy's interception mode says.
    Default,
    /// Captured by iptables.
    Iptables,
    /// Bound.
    None,
}

/// Where the application takes traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultEndpoint {
    /// Where the client sent it.
    OriginalDestination,
    /// A port of a loopback address.
    Loopback(IpAddr, u16),
    /// A port of the workload's own address.
    Workload(u16),
    /// The path of a Unix domain socket.
    Socket(SmolStr),
}

/// Hosts that the workload sees, and the listener that shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// `None`: the listeners of all ports.
    pub listener: Option<EgressListener>,
    /// Which hosts.
    pub hosts: Vec<EgressHost>,
}

/// `port`, `bind` and `captureMode` of a Sidecar's egress listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EgressListener {
    /// Number, when given; zero for a Unix socket, which has services of every port.
    pub port: Option<u16>,
    /// Protocol as written, when a port is given.
    pub protocol: Option<Protocol>,
    /// Address or `unix://…`; empty when not given.
    pub bind: SmolStr,
    /// `captureMode: NONE`
    pub no_capture: bool,
}

/// A host (or wildcard) of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EgressHost {
    /// Whose host it is.
    pub namespace: EgressNamespace,
    /// May be a wildcard.
    pub host: Hostname,
}

impl fmt::Display for EgressHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            EgressNamespace::Any => write!(f, "*/{}", self.host),
            EgressNamespace::Own => write!(f, "./{}", self.host),
            EgressNamespace::Named(named) => write!(f, "{named}/{}", self.host),
        }
    }
}

/// From which namespace a host is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EgressNamespace {
    /// From any.
    Any,
    /// From that of the proxy.
    Own,
    /// From this one.
    Named(SmolStr),
}

impl Ingress {
    /// Returns whether the listener binds its port itself, in a proxy with this interception.
    pub fn binds_port(&self, interception: Interception) -> bool {
        match self.capture {
            CaptureMode::Default => interception == Interception::None,
            CaptureMode::Iptables => false,
            CaptureMode::None => true,
        }
    }
}

/// Converts a Sidecar.
pub(in crate::mesh) fn sidecar(written: &istio::Sidecar) -> Sidecar {
    Sidecar {
        workload_selector: written.workload_selector.clone(),
        ingress: written.ingress.iter().map(ingress).collect(),
        egress: written.egress.iter().map(egress).collect(),
        outbound_traffic_policy: match unsupported::egress_proxy(written) {
            true => Some(OutboundTrafficPolicy::RegistryOnly),
            false => written.outbound_traffic_policy.map(Into::into),
        },
        inbound_connection_pool: written.inbound_connection_pool.as_ref().map(connection_pool),
    }
}

fn ingress(written: &istio::IngressListener) -> Ingress {
    Ingress {
        port: written.port.number,
        protocol: protocol::named(&written.port.protocol),
        bind: written.bind.clone(),
        capture: match written.capture_mode {
            istio::CaptureMode::Default => CaptureMode::Default,
            istio::CaptureMode::Iptables => CaptureMode::Iptables,
            istio::CaptureMode::None => CaptureMode::None,
        },
        default_endpoint: default_endpoint(&written.default_endpoint),
        connection_pool: written.connection_pool.as_ref().map(connection_pool),
    }
}

// `127.0.0.1:8080`, `0.0.0.0:8080`, `[::1]:8080`, `unix:///path`.
fn default_endpoint(written: &str) -> DefaultEndpoint {
    if let Some(path) = written.strip_prefix("unix://") {
        return DefaultEndpoint::Socket(path.into());
    }
    let Some((host, port)) = written.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) else {
        return DefaultEndpoint::OriginalDestination;
    };
    match host.trim_start_matches('[').trim_end_matches(']') {
        "0.0.0.0" | "::" => DefaultEndpoint::Workload(port),
        "127.0.0.1" => DefaultEndpoint::Loopback(Ipv4Addr::LOCALHOST.into(), port),
        "::1" => DefaultEndpoint::Loopback(Ipv6Addr::LOCALHOST.into(), port),
        _ => DefaultEndpoint::OriginalDestination,
    }
}

fn egress(written: &istio::EgressListener) -> Egress {
    Egress { listener: egress_listener(written), hosts: written.hosts.iter().filter_map(|host| egress_host(host)).collect() }
}

fn egress_listener(written: &istio::EgressListener) -> Option<EgressListener> {
    let no_capture = written.capture_mode == istio::CaptureMode::None;
    if written.port.is_none() && written.bind.is_empty() && !no_capture {
        return None;
    }
    let port = written.port.as_ref();
    Some(EgressListener {
        port: port.map(|port| port.number).filter(|number| *number != 0 || written.bind.starts_with("unix://")),
        protocol: port.map(|port| protocol::named(&port.protocol)),
        bind: written.bind.clone(),
        no_capture,
    })
}

// `namespace/host`; `.` is the proxy's namespace, `~` imports nothing, what has no slash is left out.
fn egress_host(written: &str) -> Option<EgressHost> {
    let (namespace, host) = written.split_once('/')?;
    let namespace = match namespace {
        "~" => return None,
        "*" => EgressNamespace::Any,
        "." => EgressNamespace::Own,
        named => EgressNamespace::Named(named.into()),
    };
    Some(EgressHost { namespace, host: Hostname::new(host) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_to_go_through_a_proxy_does_not_go_past_it() {
        let policy = |egress_proxy| {
            let outbound_traffic_policy = Some(istio::OutboundTrafficPolicy::AllowAny);
            sidecar(&istio::Sidecar { outbound_traffic_policy, egress_proxy, ..Default::default() }).outbound_traffic_policy
        };
        assert_eq!(policy(None), Some(OutboundTrafficPolicy::AllowAny));
        assert_eq!(policy(Some(istio::Destination::default())), Some(OutboundTrafficPolicy::RegistryOnly));
    }

    #[test]
    fn default_endpoints_are_read_by_their_address() {
        let cases = [
            ("", DefaultEndpoint::OriginalDestination),
            ("127.0.0.1:8080", DefaultEndpoint::Loopback([127, 0, 0, 1].into(), 8080)),
            ("[::1]:8080", DefaultEndpoint::Loopback(Ipv6Addr::LOCALHOST.into(), 8080)),
            ("0.0.0.0:8080", DefaultEndpoint::Workload(8080)),
            ("[::]:8080", DefaultEndpoint::Workload(8080)),
            ("unix:///run/app.sock", DefaultEndpoint::Socket("/run/app.sock".into())),
            ("127.0.0.1:http", DefaultEndpoint::OriginalDestination),
            ("10.0.0.1:8080", DefaultEndpoint::OriginalDestination),
        ];
        for (written, expected) in cases {
            assert_eq!(default_endpoint(written), expected, "{written}");
        }
    }

    #[test]
    fn egress_hosts_name_the_namespace_before_the_slash() {
        let host = |namespace, host| Some(EgressHost { namespace, host: Hostname::new(host) });
        assert_eq!(egress_host("*/*"), host(EgressNamespace::Any, "*"));
        assert_eq!(egress_host("./a.b"), host(EgressNamespace::Own, "a.b"));
        assert_eq!(egress_host("shop/*"), host(EgressNamespace::Named("shop".into()), "*"));
        assert_eq!(egress_host("~/*"), None);
        assert_eq!(egress_host("no-slash"), None);
    }

    #[test]
    fn an_egress_listener_is_there_when_port_bind_or_capture_is_written() {
        let port = |number| Some(istio::Port { number, protocol: "HTTP".into(), ..Default::default() });
        assert_eq!(egress_listener(&istio::EgressListener::default()), None);
        let numbered = egress_listener(&istio::EgressListener { port: port(80), ..Default::default() });
        assert_eq!(numbered.map(|listener| (listener.port, listener.protocol)), Some((Some(80), Some(Protocol::Http))));
        let unnumbered = |bind: &str| egress_listener(&istio::EgressListener { port: port(0), bind: bind.into(), ..Default::default() });
        assert_eq!(unnumbered("127.0.0.1").and_then(|listener| listener.port), None);
        assert_eq!(unnumbered("unix:///run/a.sock").and_then(|listener| listener.port), Some(0), "a socket has services of every port");
    }
}

//! Puts the listeners of all Gateways of a proxy on its ports: the oldest Gateway first, and what then has no place is
//! refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use smol_str::SmolStr;

use super::listener::{Gateway, Listener};
use crate::{
    mesh::{
        configured::Configured,
        model::{Hostname, Origin, Protocol, ProxyPorts},
    },
    visits::{Visit, Visited},
};

/// What a gateway proxy listens for.
#[derive(Debug, Default)]
pub struct MergedListeners<'a> {
    /// By port and address.
    pub ports: Vec<MergedPort<'a>>,
    /// Listeners that were left out, and why.
    pub refused: Vec<RefusedListener>,
}

/// The listeners that share a port of the proxy.
#[derive(Debug)]
pub struct MergedPort<'a> {
    /// The port that the proxy binds.
    pub number: u16,
    /// The address that it binds; empty: all.
    pub bind: SmolStr,
    /// How they share it.
    pub sharing: Sharing,
    /// Never empty; the oldest Gateway's first.
    pub listeners: Vec<PlacedListener<'a>>,
}

/// A listener that has a place.
#[derive(Clone, Copy, Debug)]
pub struct PlacedListener<'a> {
    /// The Gateway that it is of.
    pub gateway: &'a Configured<Gateway>,
    /// The listener.
    pub listener: &'a Listener,
}

/// How listeners share a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Any number of plaintext HTTP listeners.
    Http,
    /// Any number of listeners told apart by SNI.
    Tls,
    /// Not at all: there is only one.
    Alone,
}

/// A listener that has no place because another one was there first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefusedListener {
    /// The Gateway.
    pub gateway: Origin,
    /// Where the Gateway asks for it (`spec.servers[0]`).
    pub field: SmolStr,
    /// What stands in the way.
    pub reason: Refusal,
}

/// Why a listener is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// An older listener of another kind holds the port.
    PortTaken(u16),
    /// An older listener on the port holds the TLS host.
    HostTaken(Hostname),
    /// An older listener of the port binds some of the addresses, and others beside them or not all.
    AddressTaken(u16),
    /// The gateway may not bind the port.
    Privileged(u16),
    /// The gateway's bootstrap listens there.
    Bootstrap(u16),
}

/// What a gateway proxy may bind.
#[derive(Clone, Copy, Debug)]
pub struct BindLimits<'a> {
    /// The addresses that a listener binds which names none.
    pub everywhere: &'a [IpAddr],
    /// Ports that are held already or cannot be had.
    pub ports: ProxyPorts,
}

/// Merges the listeners of these Gateways, given in any order.
///
/// `targets` are the ports of the proxy's own Services, each with the port that the pod listens on: clients speak of the
/// Service's.
pub fn merge<'a>(gateways: &'a [Arc<Configured<Gateway>>], targets: &[(u16, u16)], limits: BindLimits<'_>) -> MergedListeners<'a> {
    let mut gateways: Vec<&Configured<Gateway>> = gateways.iter().map(|gateway| &**gateway).collect();
    gateways.sort_by(|one, other| one.precedence.cmp(&other.precedence));
    let mut ports = Ports { limits, placed: Vec::new(), by_address: BTreeMap::new() };
    let mut refused = Vec::new();
    for gateway in gateways {
        for listener in &gateway.spec.listeners {
            for number in bound_ports(listener.port, targets) {
                if let Err(reason) = ports.place(number, PlacedListener { gateway, listener }) {
                    refused.push(RefusedListener { gateway: gateway.origin.clone(), field: listener.field.clone(), reason });
                }
            }
        }
    }
    let mut ports: Vec<MergedPort<'a>> = ports.placed.into_iter().map(|(port, _)| port).collect();
    ports.sort_by(|one, other| (one.number, &one.bind).cmp(&(other.number, &other.bind)));
    MergedListeners { ports, refused }
}

/// Returns the ports on which a listener's port is reached: those of the pod behind the Service's, or the port itself.
fn bound_ports(listener: u16, targets: &[(u16, u16)]) -> BTreeSet<u16> {
    let ports: BTreeSet<u16> = targets.iter().filter(|(service, _)| *service == listener).map(|(_, target)| *target).collect();
    if ports.is_empty() { BTreeSet::from([listener]) } else { ports }
}

struct Ports<'a, 'l> {
    limits: BindLimits<'l>,
    /// With the TLS hosts that are served.
    placed: Vec<(MergedPort<'a>, BTreeSet<Hostname>)>,
    /// Where among `placed` the listener of a port and address is.
    by_address: BTreeMap<(u16, String), usize>,
}

impl<'a> Ports<'a, '_> {
    fn place(&mut self, number: u16, placed: PlacedListener<'a>) -> Result<(), Refusal> {
        if self.limits.ports.forbid(number) {
            return Err(Refusal::Privileged(number));
        }
        let (sharing, bind) = (Sharing::of(placed.listener.protocol), &placed.listener.bind);
        let wanted = self.limits.addresses(bind);
        if self.limits.ports.are_taken_at(number) && wanted.iter().any(|address| self.limits.addresses("").contains(address)) {
            return Err(Refusal::Bootstrap(number));
        }
        // Envoy refuses a second listener of one address.
        let held = wanted.iter().visiting(Visited::Written).filter_map(|address| self.by_address.get(&(number, address.clone())));
        let Some(at) = held.min().copied() else {
            self.by_address.extend(wanted.into_iter().map(|address| ((number, address), self.placed.len())));
            let hosts = placed.listener.hosts.iter().map(|of| of.host.clone()).collect();
            self.placed.push((MergedPort { number, bind: bind.clone(), sharing, listeners: vec![placed] }, hosts));
            return Ok(());
        };
        let (port, taken) = &mut self.placed[at];
        if port.sharing != sharing || sharing == Sharing::Alone {
            return Err(Refusal::PortTaken(number));
        }
        if self.limits.addresses(&port.bind) != wanted {
            return Err(Refusal::AddressTaken(number));
        }
        if sharing == Sharing::Tls {
            // Envoy refuses a listener that has two chains for one SNI.
            let hosts = || placed.listener.hosts.iter().map(|host| &host.host);
            if let Some(taken) = hosts().find(|host| taken.contains(*host)) {
                return Err(Refusal::HostTaken(taken.clone()));
            }
            taken.extend(hosts().cloned());
        }
        port.listeners.push(placed);
        Ok(())
    }
}

impl BindLimits<'_> {
    // In one spelling; the path of a socket is its own.
    fn addresses(&self, bind: &str) -> BTreeSet<String> {
        match (bind, bind.parse::<IpAddr>()) {
            ("", _) => self.everywhere.iter().map(ToString::to_string).collect(),
            (_, Ok(ip)) => [ip.to_string()].into(),
            (path, Err(_)) => [path.to_owned()].into(),
        }
    }
}

impl Sharing {
    fn of(protocol: Protocol) -> Self {
        match protocol {
            protocol if protocol.is_http() => Self::Http,
            protocol if protocol.is_tls() => Self::Tls,
            _ => Self::Alone,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken(port) => write!(f, "port {port} is held by an older server of another kind"),
            Self::HostTaken(host) => write!(f, "an older server on this port has the TLS host {host}"),
            Self::AddressTaken(port) => write!(f, "an older server on port {port} binds other addresses, this one's among them"),
            Self::Privileged(port) => write!(f, "the gateway may not bind port {port} (below 1024)"),
            Self::Bootstrap(port) => write!(f, "port {port} is the gateway's own for readiness and metrics"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Kind, ObjectKey},
        mesh::{
            gateway::host::{ListenerHost, RoutesFrom},
            model::Precedence,
        },
    };

    fn gateway(name: &str, created: i64, listeners: &[(u16, Protocol, &str)]) -> Arc<Configured<Gateway>> {
        let listener = |(at, (port, protocol, host)): (usize, &(u16, Protocol, &str))| Listener {
            field: format!("spec.servers[{at}]").into(),
            port: *port,
            port_name: "port".into(),
            protocol: *protocol,
            bind: SmolStr::default(),
            hosts: vec![ListenerHost { host: Hostname::new(host), routes_from: RoutesFrom::All }],
            tls: None,
            https_redirect: false,
        };
        let object = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::Gateway, namespace: "shop".into(), name: name.into() };
        Arc::new(Configured {
            spec: Arc::new(Gateway { selector: Default::default(), listeners: listeners.iter().enumerate().map(listener).collect() }),
            precedence: Precedence { created, name: name.into(), namespace: "shop".into() },
            origin: Origin { object, generation: 1 },
        })
    }

    fn placed(merged: &MergedListeners<'_>) -> Vec<(u16, Vec<String>)> {
        let names = |port: &MergedPort<'_>| port.listeners.iter().map(|placed| placed.gateway.origin.object.name.to_string()).collect();
        merged.ports.iter().map(|port| (port.number, names(port))).collect()
    }

    fn refused(merged: &MergedListeners<'_>) -> Vec<(String, String)> {
        merged.refused.iter().map(|refused| (refused.gateway.object.name.to_string(), refused.reason.to_string())).collect()
    }

    fn limits(everywhere: &[IpAddr]) -> BindLimits<'_> {
        BindLimits { everywhere, ports: ProxyPorts::USUAL }
    }

    fn bound(gateway: Arc<Configured<Gateway>>, bind: &str) -> Arc<Configured<Gateway>> {
        let mut spec = Gateway::clone(&gateway.spec);
        spec.listeners.iter_mut().for_each(|listener| listener.bind = bind.into());
        Arc::new(Configured { spec: Arc::new(spec), ..Configured::clone(&gateway) })
    }

    #[test]
    fn an_address_has_one_listener_however_it_is_written() {
        let everywhere: [IpAddr; 2] = [[0, 0, 0, 0].into(), [0u16; 8].into()];
        let web = |name, created, bind| bound(gateway(name, created, &[(80, Protocol::Http, "*")]), bind);
        let gateways = [web("a", 1, ""), web("b", 2, "0.0.0.0"), web("c", 3, "10.0.0.1"), web("d", 4, "10.0.0.1"), web("e", 5, "::")];
        let merged = merge(&gateways, &[], limits(&everywhere));
        assert_eq!(placed(&merged), [(80, vec!["a".to_owned()]), (80, vec!["c".to_owned(), "d".to_owned()])]);
        let taken = "an older server on port 80 binds other addresses, this one's among them";
        assert_eq!(refused(&merged), ["b", "e"].map(|name| (name.to_owned(), taken.to_owned())));
        let merged = merge(&gateways[..2], &[], limits(&everywhere[..1]));
        assert_eq!(placed(&merged), [(80, vec!["a".to_owned(), "b".to_owned()])]);
    }

    #[test]
    fn the_bootstraps_ports_are_not_to_be_had() {
        let probes = |bind| bound(gateway("probes", 1, &[(15021, Protocol::Http, "*")]), bind);
        let gateways = [probes(""), probes("10.0.0.1")];
        let merged = merge(&gateways, &[], limits(&[[0, 0, 0, 0].into()]));
        assert_eq!((placed(&merged).len(), refused(&merged).len()), (1, 1));
        assert_eq!(refused(&merged)[0].1, "port 15021 is the gateway's own for readiness and metrics");
    }

    #[test]
    fn the_oldest_gateway_holds_a_port_and_a_tls_host() {
        let everywhere = [[0, 0, 0, 0].into()];
        let young = gateway("young", 2, &[(80, Protocol::Tcp, "*"), (443, Protocol::Https, "a"), (443, Protocol::Tls, "b")]);
        let old = gateway("old", 1, &[(80, Protocol::Http, "*"), (443, Protocol::Https, "a")]);
        let gateways = [young, old];
        let merged = merge(&gateways, &[], limits(&everywhere));
        assert_eq!(placed(&merged), [(80, vec!["old".to_owned()]), (443, vec!["old".to_owned(), "young".to_owned()])]);
        let expected = ["port 80 is held by an older server of another kind", "an older server on this port has the TLS host a"];
        assert_eq!(refused(&merged), expected.map(|reason| ("young".to_owned(), reason.to_owned())));
        assert_eq!(merged.refused[1].field, "spec.servers[1]");
    }

    #[test]
    fn a_listener_is_where_the_pod_listens_for_its_port() {
        let gateways = [gateway("only", 1, &[(80, Protocol::Http, "*"), (90, Protocol::Http, "*")])];
        let unprivileged = BindLimits { everywhere: &[[0, 0, 0, 0].into()], ports: ProxyPorts { unprivileged: true, ..ProxyPorts::USUAL } };
        let merged = merge(&gateways, &[(80, 8080), (80, 8081), (443, 8443)], unprivileged);
        assert_eq!(merged.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [8080, 8081]);
        assert_eq!(refused(&merged)[0].1, "the gateway may not bind port 90 (below 1024)");
    }
}

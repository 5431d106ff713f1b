//! The addresses that a sidecar listens on whatever services there are. Envoy refuses a second listener at one of them, and
//! as the services' listeners may reach it first, what it then refuses is the one that captures all traffic.

use std::{fmt, net::IpAddr};

use crate::{
    mesh::{
        model::{Interception, ProxyPorts},
        settings::MeshSettings,
        sidecar::{Ingress, Sidecar},
    },
    translate::input::ListenerClass,
};

/// What a sidecar holds by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldAddresses<'a> {
    pub(crate) class: &'a ListenerClass,
    pub(crate) mesh: &'a MeshSettings,
    pub(crate) ports: ProxyPorts,
    /// The Sidecar that applies.
    pub(crate) sidecar: Option<&'a Sidecar>,
    /// The proxy's own addresses.
    pub(crate) own: &'a [IpAddr],
}

/// Who holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// `virtualOutbound`
    CapturedOutbound,
    /// `virtualInbound`
    CapturedInbound,
    /// The explicit HTTP proxy.
    HttpProxy,
    /// The bootstrap: readiness or metrics.
    Bootstrap,
    /// An ingress listener of the Sidecar.
    Ingress,
}

impl HeldAddresses<'_> {
    /// Returns who holds an address, given as it is written. A Unix domain socket is held by nobody.
    pub(crate) fn holder(&self, address: &str, port: u16) -> Option<Holder> {
        let address: IpAddr = address.parse().ok()?;
        let everywhere = address.is_unspecified().then(|| self.everywhere(port)).flatten();
        let explicit = port != 0 && port == self.mesh.proxy_http_port && self.class.localhost() == address.to_string();
        everywhere.or(explicit.then_some(Holder::HttpProxy)).or_else(|| self.ingress(address, port).then_some(Holder::Ingress))
    }

    /// Returns who holds a port on all addresses.
    pub(crate) fn everywhere(&self, port: u16) -> Option<Holder> {
        match port {
            port if port == self.mesh.proxy_listen_port => Some(Holder::CapturedOutbound),
            port if port == self.mesh.proxy_inbound_listen_port => Some(Holder::CapturedInbound),
            port => self.bootstrap(port),
        }
    }

    /// Returns the bootstrap if it listens on a port.
    pub(crate) fn bootstrap(&self, port: u16) -> Option<Holder> {
        self.ports.are_taken_at(port).then_some(Holder::Bootstrap)
    }

    fn ingress(&self, address: IpAddr, port: u16) -> bool {
        let mut ingress = self.sidecar.into_iter().flat_map(|sidecar| &sidecar.ingress);
        ingress.any(|listener| listener.port == port && listener.binds_port(self.class.interception) && self.is_at(listener, address))
    }

    fn is_at(&self, listener: &Ingress, address: IpAddr) -> bool {
        match listener.bind.parse::<IpAddr>() {
            Ok(written) => written == address,
            Err(_) => self.own.contains(&address),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CapturedOutbound => "the proxy's own for captured outbound traffic (proxyListenPort)",
            Self::CapturedInbound => "the proxy's own for captured inbound traffic (proxyInboundListenPort)",
            Self::HttpProxy => "the proxy's own as an HTTP proxy (proxyHttpPort)",
            Self::Bootstrap => "the proxy's own for readiness and metrics",
            Self::Ingress => "held by an ingress listener of the Sidecar",
        })
    }
}

/// Returns whether a Sidecar's ingress binds the proxies' own addresses although there is capture: then what is held differs
/// from proxy to proxy.
pub fn holds_own_addresses(sidecar: &Sidecar, interception: Interception) -> bool {
    let own = |listener: &Ingress| listener.bind.is_empty() && listener.binds_port(interception);
    interception != Interception::None && sidecar.ingress.iter().any(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::mesh_config::MeshConfig,
        mesh::{
            model::{Flavour, Protocol},
            sidecar::{CaptureMode, DefaultEndpoint},
        },
    };

    #[test]
    fn the_proxy_holds_its_ports_where_it_listens() {
        let class = ListenerClass {
            flavour: Flavour::Stock,
            interception: Interception::Redirect,
            ipv4: true,
            ipv6: true,
            http10: false,
            idle_timeout: None,
            own: Default::default(),
        };
        let mesh = MeshSettings::of(&MeshConfig { proxy_listen_port: 16001, proxy_http_port: 15002, ..Default::default() });
        let ingress = |bind: &str, port, capture| Ingress {
            port,
            protocol: Protocol::Http,
            bind: bind.into(),
            capture,
            default_endpoint: DefaultEndpoint::OriginalDestination,
            connection_pool: None,
        };
        let listeners =
            vec![ingress("", 81, CaptureMode::None), ingress("127.0.0.2", 82, CaptureMode::None), ingress("", 83, CaptureMode::Default)];
        let sidecar = Sidecar { ingress: listeners, ..Default::default() };
        let own = ["10.0.0.9".parse().unwrap()];
        let held = HeldAddresses { class: &class, mesh: &mesh, ports: ProxyPorts::USUAL, sidecar: Some(&sidecar), own: &own };
        let table = [
            ("0.0.0.0", 16001, Some(Holder::CapturedOutbound)),
            ("0.0.0.0", 15001, None),
            ("::", 15006, Some(Holder::CapturedInbound)),
            ("0:0::0", 15090, Some(Holder::Bootstrap)),
            ("10.96.0.1", 15006, None),
            ("127.0.0.1", 15002, Some(Holder::HttpProxy)),
            ("0.0.0.0", 15002, None),
            ("10.0.0.9", 81, Some(Holder::Ingress)),
            ("127.0.0.2", 82, Some(Holder::Ingress)),
            ("10.0.0.9", 83, None),
            ("unix:///run/a.sock", 0, None),
        ];
        for (address, port, holder) in table {
            assert_eq!(held.holder(address, port), holder, "{address} {port}");
        }
        assert!(holds_own_addresses(&sidecar, Interception::Redirect) && !holds_own_addresses(&sidecar, Interception::None));
    }
}

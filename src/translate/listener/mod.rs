//! Listeners (contract §3.3, §3.4, §3.7).

pub mod gateway;
pub mod inbound;
pub mod outbound;

mod chain;
mod inspector;
mod l4;

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::config::core::v3::{Address, Pipe, SocketAddress, address, socket_address::PortSpecifier};

use super::input::ProxyClass;
use crate::mesh::model::{Flavour, Interception, TelemetryIdentity};

/// What of a proxy's class a listener reads: proxies of several namespaces may share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerClass {
    /// Stock Envoy or Istio's.
    pub flavour: Flavour,
    /// Capture mode.
    pub interception: Interception,
    /// It has an IPv4 address (or none at all).
    pub ipv4: bool,
    /// It has an IPv6 address.
    pub ipv6: bool,
    /// Accepts HTTP/1.0.
    pub http10: bool,
    /// `IDLE_TIMEOUT`
    pub idle_timeout: Option<Duration>,
    /// Names for traces.
    pub telemetry: Arc<TelemetryIdentity>,
}

impl ListenerClass {
    /// The part of a class.
    pub fn of(class: &ProxyClass) -> Self {
        Self {
            flavour: class.flavour,
            interception: class.interception,
            ipv4: class.ipv4 || !class.ipv6,
            ipv6: class.ipv6,
            http10: class.http10,
            idle_timeout: class.idle_timeout,
            telemetry: Arc::clone(&class.telemetry),
        }
    }

    /// The address that means all.
    pub fn wildcard(&self) -> &'static str {
        if self.ipv4 { "0.0.0.0" } else { "::" }
    }

    /// The address that means this host.
    pub fn localhost(&self) -> &'static str {
        if self.ipv4 { "127.0.0.1" } else { "::1" }
    }

    /// In addition to [`Self::wildcard`] and [`Self::localhost`], on hosts with both families.
    fn dual_stack(&self) -> bool {
        self.ipv4 && self.ipv6
    }
}

/// An address and port, or a Unix domain socket for `unix://…`.
pub(crate) fn address(bind: &str, port: u16) -> Address {
    let address = match bind.strip_prefix("unix://") {
        Some(path) => address::Address::Pipe(Pipe { path: path.into(), ..Default::default() }),
        None => address::Address::SocketAddress(SocketAddress {
            address: bind.into(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        }),
    };
    Address { address: Some(address) }
}

//! The names of the route tables that outbound listeners subscribe to: one of the service, at an address of its own
//! where HTTP is sniffed, or else that of the port.

use smol_str::{SmolStr, format_smolstr};

use crate::{
    mesh::{
        model::{Interception, Protocol, Registry, Resolution, Service, ServicePort, UNSPECIFIED},
        scope::EgressScope,
    },
    translate::input::ProxyClass,
};

/// Returns the name of the table of a port.
pub(super) fn of_port(port: u16) -> SmolStr {
    format_smolstr!("{port}")
}

/// Returns the name of the table of one service, for listeners at its own address.
pub(super) fn of_service(service: &Service, port: u16) -> SmolStr {
    format_smolstr!("{}:{port}", service.hostname)
}

/// Returns the names that listeners for a port of a service may subscribe to. Which of them do follows from endpoints and
/// from the services that share the port; a table is made for each.
pub fn route_tables(egress: &EgressScope, class: &ProxyClass, service: &Service, port: &ServicePort) -> impl Iterator<Item = SmolStr> {
    let asked = egress.listener.as_ref().filter(|listener| listener.port.is_some()).and_then(|listener| listener.protocol);
    let protocol = asked.unwrap_or(port.protocol);
    let sniffed = protocol == Protocol::Auto;
    let addresses =
        if sniffed { Addresses::of(egress, class, service, port.number) } else { Addresses { own: false, all: protocol.is_http() } };
    let (own, all) = if service.external_name.is_some() { (false, false) } else { (addresses.own, addresses.all) };
    let number = port.number;
    own.then(|| of_service(service, number)).into_iter().chain(all.then(|| of_port(number)))
}

/// Where sniffed listeners of a service may be.
struct Addresses {
    /// At some address that stands for this service alone.
    own: bool,
    /// At the address that means all.
    all: bool,
}

impl Addresses {
    fn of(egress: &EgressScope, class: &ProxyClass, service: &Service, port: u16) -> Self {
        let listener = egress.listener.as_ref();
        if let Some(bind) = listener.map(|listener| listener.bind.as_str()).filter(|bind| !bind.is_empty()) {
            let all = matches!(bind, "0.0.0.0" | "::");
            return Self { own: !all, all };
        }
        if class.interception == Interception::None || listener.is_some_and(|listener| listener.no_capture) {
            return Self { own: true, all: false };
        }
        let addresses = service.addresses_at(port);
        if addresses.is_empty() {
            let headless = service.resolution == Resolution::Passthrough && listener.is_none_or(|listener| listener.port.is_none());
            let without_endpoints = service.registry == Registry::External && service.selector.is_empty();
            return Self { own: headless, all: !headless || without_endpoints };
        }
        let network = |address: &SmolStr| {
            let bits = address.split_once('/').map(|(_, bits)| bits);
            service.registry == Registry::External && (address == UNSPECIFIED || bits.is_some_and(|bits| !matches!(bits, "32" | "128")))
        };
        Self { own: addresses.iter().any(|address| !network(address)), all: addresses.iter().any(network) }
    }
}

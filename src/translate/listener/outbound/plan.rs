//! Decides which outbound listeners there are.

use std::collections::BTreeSet;

use smol_str::{SmolStr, format_smolstr};

use super::{
    Chain, ListenerInput, OutboundView, Plan, Planned,
    candidates::Candidates,
    merge::{Claim, Entries, Offer},
    routed::RoutedChains,
};
use crate::{
    mesh::{
        model::{EndpointAddress, Health, Interception, Origin, Protocol, Registry, Resolution, Service, UNSPECIFIED},
        scope::EgressScope,
    },
    translate::{
        input::{ByPtr, ListenerClass},
        listener::{
            held::HeldAddresses,
            refused::{Reason, Refused},
        },
    },
};

/// Where services and ServiceEntries ask for listeners.
const PORTS: SmolStr = SmolStr::new_static("spec.ports");

pub(super) struct Planner<'a> {
    pub(super) view: OutboundView<'a>,
    pub(super) class: ListenerClass,
}

/// The addresses of one listener.
pub(super) struct Bind {
    /// The first names it.
    pub(super) addresses: Vec<SmolStr>,
    /// Networks that its chains match instead, as they cannot be bound to.
    pub(super) networks: Vec<SmolStr>,
}

/// One port of one service, as seen through one egress listener.
pub(super) struct ServicePort<'a> {
    pub(super) egress: &'a EgressScope,
    pub(super) service: &'a Service,
    pub(super) number: u16,
    pub(super) protocol: Protocol,
    /// The object that asks for the listener, and where: the Sidecar where it names the port, else the service.
    pub(super) asked: (&'a Origin, SmolStr),
}

impl<'a> Planner<'a> {
    pub(super) fn new(view: OutboundView<'a>) -> Self {
        Self { view, class: ListenerClass::of(view.class) }
    }

    /// Plans the listeners that do not depend on services.
    pub(super) fn fixed(&self) -> Planned {
        let mut plans = Vec::new();
        if self.class.interception != Interception::None {
            plans.push(Plan::Virtual);
        }
        if self.view.mesh.proxy_http_port != 0 {
            plans.push(Plan::HttpProxy(self.view.mesh.proxy_http_port));
        }
        Planned { listeners: plans.into_iter().map(|plan| self.input(plan)).collect(), refused: BTreeSet::new() }
    }

    /// Plans the listeners of a port.
    pub(super) fn port(&self, number: u16, candidates: &Candidates<'a>) -> Planned {
        let (mut entries, mut routed) = (Entries::of_port(number), RoutedChains::default());
        for (index, services) in candidates {
            let Some(egress) = self.view.scope.egress.get(*index) else { continue };
            let wanted = egress.listener.as_ref().filter(|listener| listener.port.is_some());
            if wanted.is_none() {
                entries.lock();
            }
            for service in services.iter().filter(|service| service.external_name.is_none()) {
                let Some(protocol) = wanted.and_then(|listener| listener.protocol).or_else(|| Some(service.port(number)?.protocol)) else {
                    continue;
                };
                let asked = match self.view.scope.sidecar.as_ref().filter(|_| wanted.is_some()) {
                    Some(sidecar) => (&sidecar.origin, format_smolstr!("spec.egress[{index}]")),
                    None => (&service.origin, PORTS),
                };
                self.offer(&ServicePort { egress, service, number, protocol, asked }, &mut routed, &mut entries);
            }
        }
        let (listeners, refused) = entries.into_listeners();
        Planned { listeners: listeners.into_iter().map(|listener| self.input(Plan::Service(listener))).collect(), refused }
    }

    fn input(&self, plan: Plan) -> ListenerInput {
        ListenerInput { class: self.class.clone(), mesh: ByPtr::from(self.view.mesh), allow_any: self.view.scope.allow_any, plan }
    }

    fn offer(&self, port: &ServicePort<'_>, routed: &mut RoutedChains, entries: &mut Entries) {
        if port.protocol == Protocol::Udp {
            return;
        }
        let bound = self.bound(port.egress);
        if bound && self.view.ports.forbid(port.number) {
            return entries.refuse(port.refused(Reason::Privileged(port.number)));
        }
        for mut bind in self.binds(port, bound) {
            self.leave_held(port, &mut bind, entries);
            let wildcard = bind.addresses.first().is_some_and(|address| address == self.class.wildcard());
            let origin = port.service.origin.clone();
            let mut offer = Offer { protocol: port.protocol, sniffed: false, routed: [].into(), own: None, http: None, bound, origin };
            if port.protocol == Protocol::Auto {
                offer.sniffed = true;
                self.add_tcp_chains(port, &bind, wildcard, routed, entries, &mut offer);
                offer.http = Some(self.http_chain(port, &bind, wildcard, true));
            } else if port.protocol.is_http() {
                offer.sniffed = wildcard;
                offer.http = Some(self.http_chain(port, &bind, wildcard, wildcard));
            } else {
                self.add_tcp_chains(port, &bind, wildcard, routed, entries, &mut offer);
                if offer.routed.is_empty() && offer.own.is_none() {
                    continue;
                }
            }
            entries.add(bind.addresses, offer);
        }
    }

    fn leave_held(&self, port: &ServicePort<'_>, bind: &mut Bind, entries: &mut Entries) {
        let sidecar = self.view.scope.sidecar.as_ref().map(|sidecar| &*sidecar.spec);
        let held = HeldAddresses { class: &self.class, mesh: self.view.mesh, ports: self.view.ports, sidecar, own: self.view.own };
        bind.addresses.retain(|address| match held.holder(address, port.number) {
            None => true,
            Some(holder) => {
                entries.refuse(port.refused(Reason::Held(port.number, holder)));
                false
            }
        });
    }

    fn bound(&self, egress: &EgressScope) -> bool {
        let asked = egress.listener.as_ref().is_some_and(|listener| listener.no_capture || listener.bind.starts_with("unix://"));
        asked || self.class.interception == Interception::None
    }

    fn binds(&self, port: &ServicePort<'_>, bound: bool) -> Vec<Bind> {
        let written = port.egress.listener.as_ref().map(|listener| &listener.bind).filter(|bind| !bind.is_empty());
        if let Some(bind) = written {
            return vec![Bind::at(bind.clone())];
        }
        if bound {
            return vec![Bind::both(self.class.localhost(), "::1", self.class.dual_stack())];
        }
        if port.protocol.is_http() {
            return vec![self.everywhere()];
        }
        let service = port.service;
        let catch_all = port.egress.listener.as_ref().is_none_or(|listener| listener.port.is_none());
        if service.addresses_at(port.number).is_empty() && service.resolution == Resolution::Passthrough && catch_all {
            return self.endpoint_binds(service, port.number);
        }
        self.service_binds(service, port.number)
    }

    // A headless service has no address of its own: each endpoint's address gets a listener. Without endpoints there
    // is none, rather than one that would take the port on all addresses while the service is scaled down.
    fn endpoint_binds(&self, service: &Service, number: u16) -> Vec<Bind> {
        let set = self.view.endpoints.get(&service.key());
        let endpoints = set.map_or(&[][..], |set| set.port(number));
        if endpoints.is_empty() && service.registry == Registry::External && service.selector.is_empty() {
            return vec![self.everywhere()];
        }
        let ready = endpoints.iter().filter(|endpoint| endpoint.backend.health != Health::Unready);
        let addresses = ready.filter_map(|endpoint| match &endpoint.address {
            EndpointAddress::Ip(ip) if !self.view.own.contains(ip) => Some(Bind::at(format_smolstr!("{ip}"))),
            _ => None,
        });
        let mut seen = std::collections::BTreeSet::new();
        addresses.filter(|bind| seen.insert(bind.addresses.clone())).collect()
    }

    fn service_binds(&self, service: &Service, port: u16) -> Vec<Bind> {
        let all = service.addresses_at(port);
        let usable = |address: &&SmolStr| if address.contains(':') { self.class.ipv6 } else { self.class.ipv4 };
        let addresses = all.iter().filter(usable).cloned();
        if all.is_empty() {
            return vec![self.everywhere()];
        }
        match service.registry {
            Registry::Kubernetes => {
                let addresses = addresses.take(if self.class.dual_stack() { 2 } else { 1 }).collect::<Vec<_>>();
                if addresses.is_empty() { Vec::new() } else { vec![Bind { addresses, networks: Vec::new() }] }
            }
            Registry::External => addresses.map(|address| self.external_bind(address)).collect(),
        }
    }

    fn external_bind(&self, address: SmolStr) -> Bind {
        // A network that has all bits of its family is one address.
        let all_bits = |ip: &str| if ip.contains(':') { "128" } else { "32" };
        match address.split_once('/') {
            None if address == UNSPECIFIED => self.everywhere(),
            None => Bind::at(address),
            Some((ip, bits)) if bits == all_bits(ip) => Bind::at(ip.into()),
            Some(_) => Bind { networks: vec![address], ..self.everywhere() },
        }
    }

    fn everywhere(&self) -> Bind {
        Bind::both(self.class.wildcard(), "::", self.class.dual_stack())
    }
}

impl ServicePort<'_> {
    /// Returns a chain that the port itself asks for.
    pub(super) fn claim(&self, chain: Chain) -> Claim {
        Claim { chain, origin: self.service.origin.clone(), field: PORTS }
    }

    fn refused(&self, reason: Reason) -> Refused {
        let (origin, field) = &self.asked;
        Refused::new(origin, field.clone(), reason)
    }
}

impl Bind {
    fn at(address: SmolStr) -> Self {
        Self { addresses: vec![address], networks: Vec::new() }
    }

    fn both(first: &'static str, second: &'static str, dual_stack: bool) -> Self {
        let second = (dual_stack && first != second).then_some(second);
        Self { addresses: [first].into_iter().chain(second).map(SmolStr::from).collect(), networks: Vec::new() }
    }
}

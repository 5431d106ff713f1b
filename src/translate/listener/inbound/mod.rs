//! Listeners for what a sidecar's application receives (contract §3.4): one for all captured traffic, and one for
//! each port that a `Sidecar` binds itself.

mod chains;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use envoy_types::pb::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{AdditionalAddress, FilterChain, Listener, ListenerFilter},
};
use smol_str::{SmolStr, format_smolstr};

use super::{
    address, balance,
    held::HeldAddresses,
    inspector::{disabled_but_for, disabled_for, http_inspector, original_dst, original_src, tls_inspector},
    note_reports,
    refused::{Reason, Refused},
};
use crate::{
    mesh::{
        model::{Interception, Origin, Protocol, ProxyPorts},
        policy::{request_authentication::TokenRules, workload::WorkloadPolicies},
        scope::ServiceTarget,
        settings::MeshSettings,
        sidecar::Ingress,
        world::{EffectiveMtls, Sidecar},
    },
    translate::{
        filter::{access_log::listener_access_logs, policies::PolicyFilters},
        input::{Built, ByPtr, ListenerClass, ProxyClass},
        naming::{BLACK_HOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER, inbound_cluster, statistics_name},
        wkt,
    },
};

/// Everything that a sidecar's inbound listeners are made of, and the key of their memo: proxies of one workload
/// share it, and so do workloads with the same ports and policies, but for those whose `Sidecar` binds their address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundInput {
    class: ListenerClass,
    mesh: ByPtr<MeshSettings>,
    mtls: EffectiveMtls,
    tokens: Arc<TokenRules>,
    policies: WorkloadPolicies,
    /// By target port, ascending.
    ports: Vec<InboundPort>,
}

/// One port that the application listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InboundPort {
    /// The first is part of the chains' name.
    binds: Vec<SmolStr>,
    target_port: u16,
    service_port: u16,
    protocol: Protocol,
    /// Hostname of the service, or `<name>.<namespace>` of the Sidecar.
    host: SmolStr,
    /// Prefix of TCP statistics.
    stat_prefix: SmolStr,
    /// Whether it has a listener of its own.
    bound: bool,
    origin: Origin,
    /// The Sidecar that made it.
    config: Option<Origin>,
}

/// What a sidecar's inbound listeners follow from.
#[derive(Clone, Copy, Debug)]
pub struct InboundView<'a> {
    /// Its class.
    pub class: &'a ProxyClass,
    /// Mesh-wide settings.
    pub mesh: &'a Arc<MeshSettings>,
    /// How it takes mTLS.
    pub mtls: &'a EffectiveMtls,
    /// Which tokens it takes.
    pub tokens: &'a Arc<TokenRules>,
    /// What decides about requests to it.
    pub policies: &'a WorkloadPolicies,
    /// The Sidecar that applies; with `ingress` it replaces the services' ports.
    pub sidecar: Option<&'a Sidecar>,
    /// The service ports that select the workload, oldest service first: of two for one target port the first counts.
    pub targets: &'a [ServiceTarget],
    /// The workload's addresses, the primary first.
    pub workload: &'a [IpAddr],
    /// Ports that it holds already or cannot have.
    pub ports: ProxyPorts,
}

/// Returns what decides about a sidecar's inbound listeners, and what has no place in them.
pub fn planned(view: InboundView<'_>) -> (InboundInput, BTreeSet<Refused>) {
    let class = ListenerClass::of(view.class);
    let held = HeldAddresses { class: &class, mesh: view.mesh, ports: view.ports, sidecar: None, own: &[] };
    let mut refused = BTreeSet::new();
    let mut ports = Vec::new();
    let mut place = |port: InboundPort, obstacle: Option<Reason>, field: SmolStr| match obstacle {
        None => ports.push(port),
        Some(reason) => drop(refused.insert(Refused::new(&port.origin, field, reason))),
    };
    match view.sidecar.filter(|sidecar| !sidecar.spec.ingress.is_empty()) {
        Some(sidecar) => {
            for (at, listener) in sidecar.spec.ingress.iter().enumerate() {
                let port = ingress_port(&class, sidecar, listener, view.workload);
                place(port, ingress_obstacle(listener, &held), format_smolstr!("spec.ingress[{at}]"));
            }
        }
        // Without capture the application itself holds these ports.
        None if class.interception == Interception::None => {}
        None => {
            for port in view.targets.iter().filter_map(|target| service_port(&class, view.mesh, target)) {
                let obstacle = held.everywhere(port.target_port).map(|holder| Reason::Held(port.target_port, holder));
                place(port, obstacle, "spec.ports".into());
            }
        }
    }
    ports.sort_by_key(|port| port.target_port);
    ports.dedup_by(|later, first| {
        let again = later.target_port == first.target_port;
        if again && carries(later.protocol) != carries(first.protocol) {
            let reason = Reason::Declared(first.target_port, first.protocol, first.origin.object.clone());
            refused.insert(Refused::new(&later.origin, "spec.ports", reason));
        }
        again
    });
    let input = InboundInput {
        class,
        mesh: ByPtr::from(view.mesh),
        mtls: view.mtls.clone(),
        tokens: Arc::clone(view.tokens),
        policies: view.policies.clone(),
        ports,
    };
    (input, refused)
}

/// Returns the listeners, `virtualInbound` first where there is capture.
pub fn listeners(input: &InboundInput) -> Vec<Built<Listener>> {
    let policies = PolicyFilters::of(&input.policies);
    let (bound, captured): (Vec<_>, Vec<_>) = input.ports.iter().partition(|port| port.bound);
    let virtual_inbound = (input.class.interception != Interception::None).then(|| virtual_inbound(input, &policies, &captured));
    virtual_inbound.into_iter().chain(bound.into_iter().map(|port| own_listener(input, &policies, port))).collect()
}

/// Returns what decides about a port's chains: whether HTTP is spoken there; `None`: that is sniffed.
fn carries(protocol: Protocol) -> Option<bool> {
    (protocol != Protocol::Auto).then(|| protocol.is_http())
}

fn ingress_port(class: &ListenerClass, sidecar: &Sidecar, ingress: &Ingress, workload: &[IpAddr]) -> InboundPort {
    let own = || {
        let usable = workload.iter().filter(|ip| if ip.is_ipv4() { class.ipv4 } else { class.ipv6 });
        usable.take(if class.dual_stack() { 2 } else { 1 }).map(|ip| format_smolstr!("{ip}")).collect()
    };
    InboundPort {
        binds: if ingress.bind.is_empty() { own() } else { vec![ingress.bind.clone()] },
        target_port: ingress.port,
        service_port: ingress.port,
        protocol: ingress.protocol,
        host: format_smolstr!("{}.{}", sidecar.origin.object.name, sidecar.origin.object.namespace),
        stat_prefix: inbound_cluster(ingress.port),
        bound: ingress.binds_port(class.interception),
        origin: sidecar.origin.clone(),
        config: Some(sidecar.origin.clone()),
    }
}

// What is captured is told apart by its port alone, and at the pod's own address the kubelet asks for readiness.
fn ingress_obstacle(ingress: &Ingress, held: &HeldAddresses<'_>) -> Option<Reason> {
    let port = ingress.port;
    let holder = match ingress.binds_port(held.class.interception) {
        false => held.everywhere(port),
        true if held.ports.forbid(port) => return Some(Reason::Privileged(port)),
        true if ingress.bind.is_empty() => held.bootstrap(port),
        true => held.holder(&ingress.bind, port),
    };
    holder.map(|holder| Reason::Held(port, holder))
}

fn service_port(class: &ListenerClass, mesh: &MeshSettings, target: &ServiceTarget) -> Option<InboundPort> {
    let port = target.service.ports.get(target.port)?;
    let named = statistics_name(&mesh.inbound_cluster_stat_name, &target.service, port, "");
    Some(InboundPort {
        binds: vec![class.wildcard().into()],
        target_port: target.target_port,
        service_port: port.number,
        protocol: port.protocol,
        host: target.service.hostname.text().clone(),
        stat_prefix: named.map_or_else(|| inbound_cluster(target.target_port), SmolStr::from),
        bound: false,
        origin: target.service.origin.clone(),
        config: None,
    })
}

fn virtual_inbound(input: &InboundInput, policies: &PolicyFilters, ports: &[&InboundPort]) -> Built<Listener> {
    let tproxy = input.class.interception == Interception::Tproxy;
    let mut chains = chains::passthrough(input, policies);
    chains.extend(ports.iter().flat_map(|port| chains::port(input, policies, port)));
    let mut filters = vec![original_dst()];
    if tproxy {
        filters.push(original_src());
    }
    filters.extend(inspectors(&chains));
    let port = input.mesh.proxy_inbound_listen_port;
    let listener = Listener {
        name: "virtualInbound".into(),
        transparent: if tproxy { wkt::boolean(true) } else { None },
        listener_filters: filters,
        ..listener(input, &wildcards(&input.class), port, chains)
    };
    let origins = ports.iter().map(|port| &port.origin).chain(&input.tokens.origins).chain(input.policies.origins());
    let mut built = Built::new(listener, origins.cloned());
    built.clusters = vec![BLACK_HOLE_CLUSTER.into(), INBOUND_PASSTHROUGH_CLUSTER.into()];
    built.clusters.extend(ports.iter().map(|port| inbound_cluster(port.target_port)));
    built.clusters.extend(policies.clusters.iter().cloned());
    chains::note_extensions(input, policies, ports, true, &mut built);
    note_reports(&mut built, &input.class);
    built
}

fn own_listener(input: &InboundInput, policies: &PolicyFilters, port: &InboundPort) -> Built<Listener> {
    let chains = chains::port(input, policies, port);
    let listener = Listener {
        name: port.name().into(),
        listener_filters: inspectors(&chains),
        ..listener(input, &port.binds, port.target_port, chains)
    };
    let origins = std::iter::once(&port.origin).chain(&input.tokens.origins).chain(input.policies.origins());
    let mut built = Built::new(listener, origins.cloned());
    built.clusters = vec![inbound_cluster(port.target_port)];
    built.clusters.extend(policies.clusters.iter().cloned());
    chains::note_extensions(input, policies, &[port], false, &mut built);
    note_reports(&mut built, &input.class);
    built
}

fn listener(input: &InboundInput, binds: &[SmolStr], port: u16, filter_chains: Vec<FilterChain>) -> Listener {
    let more = binds.iter().skip(1).map(|ip| AdditionalAddress { address: Some(address(ip, port)), ..Default::default() });
    Listener {
        address: binds.first().map(|ip| address(ip, port)),
        additional_addresses: more.collect(),
        filter_chains,
        traffic_direction: TrafficDirection::Inbound.into(),
        connection_balance_config: balance(input.class.own.exact_balance.inbound),
        continue_on_listener_filters_timeout: true,
        listener_filters_timeout: Some(wkt::duration(input.mesh.protocol_detection_timeout)),
        max_connections_to_accept_per_socket_event: wkt::uint32(1),
        access_log: listener_access_logs(&input.class.own.reports, &input.mesh),
        ..Default::default()
    }
}

fn wildcards(class: &ListenerClass) -> Vec<SmolStr> {
    [class.wildcard()].into_iter().chain(class.dual_stack().then_some("::")).map(SmolStr::from).collect()
}

/// What a port's chains need to know before one of them is chosen; port 0: chains that name no port.
#[derive(Clone, Copy, Default)]
struct Needs {
    tls: bool,
    http: bool,
}

// An inspector waits for the client's first bytes, which breaks protocols where the server speaks first: it is off
// wherever no chain needs it.
fn inspectors(chains: &[FilterChain]) -> Vec<ListenerFilter> {
    let mut ports = std::collections::BTreeMap::<u16, Needs>::new();
    for matcher in chains.iter().filter_map(|chain| chain.filter_chain_match.as_ref()) {
        let port = matcher.destination_port.map_or(0, |port| u16::try_from(port.value).unwrap_or_default());
        let needs = ports.entry(port).or_default();
        needs.tls |= matcher.transport_protocol == "tls";
        needs.http |= matcher.application_protocols.iter().any(|name| super::chain::PLAINTEXT_HTTP.contains(&name.as_str()));
    }
    let of = |wanted: fn(&Needs) -> bool| ports.iter().filter(move |(_, needs)| wanted(needs)).map(|(port, _)| *port);
    let tls = of(|needs| needs.tls).next().is_some().then(|| {
        if ports.get(&0).is_some_and(|needs| needs.tls) {
            disabled_for(tls_inspector(), &of(|needs| !needs.tls).collect::<Vec<_>>())
        } else {
            disabled_but_for(tls_inspector(), &of(|needs| needs.tls).collect::<Vec<_>>())
        }
    });
    let http = of(|needs| needs.http).next().is_some();
    let http = http.then(|| disabled_for(http_inspector(), &of(|needs| !needs.http).collect::<Vec<_>>()));
    tls.into_iter().chain(http).collect()
}

impl InboundPort {
    fn name(&self) -> SmolStr {
        format_smolstr!("{}_{}", self.binds.first().map_or("", SmolStr::as_str), self.target_port)
    }
}

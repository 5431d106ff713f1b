//! What patches are for.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::{
    core::v3::{address, socket_address::PortSpecifier},
    listener::v3::{FilterChain, Listener},
};

use crate::mesh::{
    envoy_filter::{ApplyTo, ClusterMatch, FilterChainMatch, ListenerMatch, ObjectMatch, Patch},
    model::Hostname,
};

/// A listener, as far as patches of what is in it tell listeners apart.
pub(super) struct Place {
    name: String,
    port: Option<u32>,
}

/// Of listeners that take what is captured, it is the chains that have ports.
const VIRTUAL: [&str; 2] = ["virtualInbound", "virtualOutbound"];

impl Place {
    pub(super) fn of(listener: &Listener) -> Self {
        let port = listener.address.as_ref().and_then(|address| match &address.address {
            Some(address::Address::SocketAddress(address)) => match address.port_specifier {
                Some(PortSpecifier::PortValue(port)) => Some(port),
                _ => Some(0),
            },
            _ => None,
        });
        Self { name: listener.name.clone(), port }
    }

    fn is_virtual(&self) -> bool {
        VIRTUAL.contains(&self.name.as_str())
    }

    /// Returns whether a patch is for the listener, or for something in it.
    pub(super) fn fits(&self, patch: &Patch) -> bool {
        let Some(of) = listener_match(patch) else { return true };
        let named = of.name.is_empty() || of.name == self.name;
        let has_port = of.port == 0 || self.port == Some(of.port) || (patch.apply_to != ApplyTo::Listener && self.is_virtual());
        named && has_port
    }

    /// Returns whether a patch that is for the listener is for the chain, or for something in it.
    pub(super) fn fits_chain(&self, patch: &Patch, chain: &FilterChain) -> bool {
        let Some(of) = listener_match(patch) else { return true };
        let matched = chain.filter_chain_match.as_ref();
        let port = matched.and_then(|matched| matched.destination_port.as_ref()).map(|port| port.value);
        if self.is_virtual() && of.port > 0 && port.unwrap_or_default() != of.port {
            return false;
        }
        let Some(of) = &of.chain else { return true };
        let protocols = |wanted: &str| {
            let has = |protocol| matched.is_some_and(|matched| matched.application_protocols.iter().any(|own| own == protocol));
            wanted.split(',').all(has)
        };
        (of.name.is_empty() || of.name == chain.name)
            && (of.sni.is_empty() || matched.is_some_and(|matched| matched.server_names.iter().any(|name| of.sni == *name)))
            && (of.transport_protocol.is_empty() || matched.is_some_and(|matched| of.transport_protocol == matched.transport_protocol))
            && (of.application_protocols.is_empty() || protocols(&of.application_protocols))
            && (of.destination_port == 0 || port == Some(of.destination_port))
    }
}

/// Returns the listener filter that a patch names.
pub(super) fn listener_filter(patch: &Patch) -> Option<&str> {
    listener_match(patch).map(|of| of.listener_filter.as_str()).filter(|name| !name.is_empty())
}

/// Returns the network filter that a patch names.
pub(super) fn network_filter(patch: &Patch) -> Option<&str> {
    chain_match(patch)?.filter.as_deref()
}

/// Returns the HTTP filter that a patch names.
pub(super) fn http_filter(patch: &Patch) -> Option<&str> {
    network_filter(patch)?;
    chain_match(patch)?.sub_filter.as_deref()
}

fn listener_match(patch: &Patch) -> Option<&ListenerMatch> {
    match &patch.object {
        Some(ObjectMatch::Listener(of)) => Some(of),
        _ => None,
    }
}

fn chain_match(patch: &Patch) -> Option<&FilterChainMatch> {
    listener_match(patch)?.chain.as_ref()
}

/// Returns whether a patch of clusters is for that of this name; `hosts` are the services behind one of the workload itself.
pub fn fits_cluster(patch: &Patch, name: &str, hosts: &BTreeSet<Hostname>) -> bool {
    let Some(ObjectMatch::Cluster(of)) = &patch.object else { return true };
    let ClusterMatch { name: named, port, service, subset } = of;
    if !named.is_empty() {
        return named == name;
    }
    let parts = Parts::of(name);
    let is_host =
        if parts.is_inbound && !hosts.is_empty() { hosts.iter().any(|host| host.as_str() == service) } else { parts.host == service };
    (subset.is_empty() || subset == parts.subset) && (service.is_empty() || is_host) && (*port == 0 || parts.port == Some(*port))
}

/// The parts of the name of a cluster, as far as it has any: `outbound|80|v1|reviews.shop.svc.cluster.local`.
#[derive(Default)]
struct Parts<'a> {
    is_inbound: bool,
    port: Option<u32>,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Self {
        let separator = if name.starts_with("outbound_.") || name.starts_with("inbound_.") { "_." } else { "|" };
        let parts: Vec<&str> = name.splitn(4, separator).collect();
        let [direction, port, subset, host] = parts[..] else { return Self::default() };
        Self { is_inbound: direction == "inbound", port: port.parse().ok(), subset, host: if host.contains(separator) { "" } else { host } }
    }
}

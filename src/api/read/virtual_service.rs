//! Reads a VirtualService (contract §6.2).

use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::istio::{Destination, L4Match, RouteDestination, TcpRoute, TlsRoute, VirtualService};

impl Read for VirtualService {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            hosts: fields.get("hosts"),
            gateways: fields.get("gateways"),
            export_to: fields.get("exportTo"),
            http: fields.get("http"),
            tls: fields.get("tls"),
            tcp: fields.get("tcp"),
        })
    }
}

impl Read for RouteDestination {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if !fields.has("destination") {
                fields.error("destination is missing");
            }
            Self { destination: fields.get("destination"), weight: weight(fields), headers: fields.get("headers") }
        })
    }
}

fn weight(fields: &Fields<'_>) -> u32 {
    let weight: i32 = fields.get("weight");
    if weight < 0 {
        fields.refuse("weight", format!("must not be negative, is {weight}"));
    }
    weight.max(0).unsigned_abs()
}

impl Read for Destination {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { host: fields.get("host"), subset: fields.get("subset"), port: fields.with("port", port_selector) })
    }
}

/// Reads `port: {number: …}`.
pub(super) fn port_selector(node: Node<'_>) -> Option<u16> {
    let fields = node.fields()?;
    let number = fields.opt("number");
    if number.is_none_or(|number| number == 0) {
        fields.error("number is missing");
    }
    fields.finish();
    number
}

impl Read for TlsRoute {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { matches: fields.get("match"), route: fields.get("route") })
    }
}

impl Read for TcpRoute {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { matches: fields.get("match"), route: fields.get("route") })
    }
}

impl Read for L4Match {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if fields.has("sourceSubnet") {
                fields.opt::<SmolStr>("sourceSubnet");
                fields.warn("sourceSubnet", "has no effect (nor has it in Istio)");
            }
            Self {
                sni_hosts: fields.get("sniHosts"),
                destination_subnets: fields.get("destinationSubnets"),
                port: fields.nonempty("port"),
                source_labels: fields.get("sourceLabels"),
                source_namespace: fields.nonempty("sourceNamespace"),
                gateways: fields.get("gateways"),
            }
        })
    }
}

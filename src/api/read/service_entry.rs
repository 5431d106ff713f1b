//! Reads ServiceEntry and WorkloadEntry (contract §6.4).

use smol_str::SmolStr;

use super::{
    fields::{Fields, Node, Read},
    gateway::selector_labels,
};
use crate::api::istio::{ServiceEntry, ServiceEntryResolution, WorkloadEntry};

impl Read for ServiceEntry {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let locations = [("MESH_EXTERNAL", false), ("MESH_INTERNAL", true)];
            Self {
                hosts: fields.get("hosts"),
                addresses: fields.get("addresses"),
                ports: fields.get("ports"),
                mesh_internal: fields.with("location", |node| node.one_of(&locations)).unwrap_or_default(),
                resolution: fields.with("resolution", resolution).unwrap_or_default(),
                endpoints: fields.get("endpoints"),
                workload_selector: fields.with("workloadSelector", selector_labels),
                export_to: fields.get("exportTo"),
                subject_alt_names: fields.get("subjectAltNames"),
            }
        })
    }
}

fn resolution(node: Node<'_>) -> Option<ServiceEntryResolution> {
    node.one_of(&[
        ("NONE", ServiceEntryResolution::None),
        ("STATIC", ServiceEntryResolution::Static),
        ("DNS", ServiceEntryResolution::Dns),
        ("DNS_ROUND_ROBIN", ServiceEntryResolution::DnsRoundRobin),
        ("DYNAMIC_DNS", ServiceEntryResolution::DynamicDns),
    ])
}

impl Read for WorkloadEntry {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            address: fields.get("address"),
            ports: fields.entries("ports"),
            labels: fields.get("labels"),
            network: network(fields),
            locality: fields.get("locality"),
            weight: fields.get("weight"),
            service_account: fields.get("serviceAccount"),
        })
    }
}

fn network(fields: &Fields<'_>) -> SmolStr {
    let network: SmolStr = fields.get("network");
    if !network.is_empty() {
        fields.warn("network", "has no effect: several networks are not supported yet, and the address is used as it is");
    }
    network
}

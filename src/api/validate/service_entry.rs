//! Checks ServiceEntry and WorkloadEntry.

use std::collections::HashSet;

use super::{
    Check,
    host::{is_host, is_ip},
    repeated::repeated,
    text::{ProtocolClass, protocol_class},
};
use crate::{
    api::{
        findings::Path,
        istio::{ServiceEntry, ServiceEntryResolution as Resolution, WorkloadEntry},
    },
    visits::{Visit, Visited},
};

/// Each port of each host is a cluster.
const MOST_CLUSTERS: usize = 40_000;

/// Every endpoint is kept for each port of each host.
const MOST_ENDPOINTS: usize = 200_000;

impl Check<'_> {
    pub(super) fn service_entry(self, entry: &ServiceEntry, at: &Path<'_>) {
        if let Some(selector) = &entry.workload_selector {
            self.selector(selector, &at.field("workloadSelector").field("labels"));
            if !entry.endpoints.is_empty() {
                self.error(at, "only one of workloadSelector and endpoints may be set");
            }
        }
        self.entry_hosts(entry, &at.field("hosts"));
        self.addresses(entry, &at.field("addresses"));
        self.entry_ports(entry, &at.field("ports"));
        self.resolution(entry, at);
        self.entry_size(entry, at);
        let endpoints = at.field("endpoints");
        let ports: HashSet<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
        for (index, endpoint) in entry.endpoints.iter().enumerate() {
            self.endpoint(endpoint, entry, &ports, &endpoints.index(index));
        }
        self.subject_alt_names(&entry.subject_alt_names, &at.field("subjectAltNames"));
        self.few_subject_alt_names(&entry.subject_alt_names, &at.field("subjectAltNames"));
        self.export_to(&entry.export_to, true, &at.field("exportTo"));
    }

    fn entry_hosts(self, entry: &ServiceEntry, at: &Path<'_>) {
        if entry.hosts.is_empty() {
            self.error(at, "must not be empty");
        }
        for (index, host) in entry.hosts.iter().enumerate() {
            let at = at.index(index);
            match host.as_str() {
                "*" => self.error(&at, "* alone is not possible"),
                host if entry.resolution == Resolution::DynamicDns && !host.starts_with('*') => {
                    self.error(&at, "must be a wildcard with resolution DYNAMIC_DNS");
                }
                host => self.wildcard_host(host, &at),
            }
        }
        let exclusive = entry.ports.iter().any(|port| !matches!(protocol_class(&port.protocol), ProtocolClass::Http | ProtocolClass::Tls));
        if entry.hosts.len() > 1 && entry.resolution != Resolution::None && exclusive {
            self.error(at, "several hosts need ports of HTTP or TLS: nothing else tells them apart");
        }
    }

    fn addresses(self, entry: &ServiceEntry, at: &Path<'_>) {
        let networks_possible = matches!(entry.resolution, Resolution::None | Resolution::Static);
        for (index, address) in entry.addresses.iter().enumerate() {
            self.subnet(address, &at.index(index));
            if address.contains('/') && !networks_possible {
                self.error(&at.index(index), "a network is possible with resolution NONE or STATIC only");
            }
        }
    }

    fn entry_ports(self, entry: &ServiceEntry, at: &Path<'_>) {
        let repeated = repeated(entry.ports.iter().map(|port| &port.name)).zip(repeated(entry.ports.iter().map(|port| port.number)));
        for ((index, port), (has_name_again, has_number_again)) in entry.ports.iter().enumerate().zip(repeated) {
            let at = at.index(index);
            self.port_name(&port.name, &at.field("name"));
            self.port_number(port.number, &at.field("number"));
            if !port.protocol.is_empty() {
                self.protocol(&port.protocol, &at.field("protocol"));
            }
            if has_name_again {
                self.error(&at.field("name"), format!("{} is given twice", port.name));
            }
            if has_number_again {
                self.error(&at.field("number"), format!("{} is given twice", port.number));
            }
        }
    }

    /// Checks how much comes of it: each host has all ports, and each port all endpoints and addresses.
    fn entry_size(self, entry: &ServiceEntry, at: &Path<'_>) {
        let clusters = entry.hosts.len().saturating_mul(entry.ports.len());
        if clusters > MOST_CLUSTERS {
            self.error(
                at,
                format!("hosts times ports make {clusters} clusters, more than the {MOST_CLUSTERS} that are possible: split it up"),
            );
        }
        let kept = entry.hosts.len().saturating_mul(entry.subject_alt_names.len().max(entry.export_to.len()));
        if kept > MOST_ENDPOINTS {
            let message = format!(
                "hosts times subjectAltNames (or exportTo) make {kept}, more than the {MOST_ENDPOINTS} that are possible: split it up"
            );
            self.error(at, message);
        }
        let of_host = entry.ports.len().max(1).saturating_mul(entry.endpoints.len().max(entry.addresses.len()).max(1));
        let made = entry.hosts.len().saturating_mul(of_host);
        if made > MOST_ENDPOINTS {
            let message = format!(
                "hosts times ports times endpoints (or addresses) make {made}, more than the {MOST_ENDPOINTS} that are possible: split it up"
            );
            self.error(at, message);
        }
    }

    fn resolution(self, entry: &ServiceEntry, at: &Path<'_>) {
        let endpoints = at.field("endpoints");
        match entry.resolution {
            Resolution::None if !entry.endpoints.is_empty() => self.error(&endpoints, "is not possible with resolution NONE"),
            Resolution::None if entry.workload_selector.is_some() => {
                self.warning(&at.field("workloadSelector"), "has no effect with resolution NONE");
            }
            Resolution::Dns | Resolution::DnsRoundRobin if entry.endpoints.is_empty() && !entry.hosts.iter().all(|host| is_host(host)) => {
                self.error(&at.field("hosts"), "must be names that DNS knows when there are no endpoints");
            }
            Resolution::DnsRoundRobin if entry.endpoints.len() > 1 => {
                self.error(&endpoints, "must be one at most with resolution DNS_ROUND_ROBIN");
            }
            Resolution::DynamicDns => {
                for (name, _) in
                    [("addresses", entry.addresses.len()), ("endpoints", entry.endpoints.len())].into_iter().filter(|(_, count)| *count > 0)
                {
                    self.error(&at.field(name), "is not possible with resolution DYNAMIC_DNS");
                }
                self.ports_name_their_host(entry, &at.field("ports"));
            }
            Resolution::None | Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {}
        }
    }

    /// Checks that the host is named by what is sent to the ports: with `DYNAMIC_DNS` nothing else does.
    fn ports_name_their_host(self, entry: &ServiceEntry, at: &Path<'_>) {
        for (index, port) in entry.ports.iter().enumerate() {
            if !["HTTP", "HTTP2", "GRPC", "TLS"].iter().any(|known| port.protocol.eq_ignore_ascii_case(known)) {
                let message = "must be HTTP, HTTP2, GRPC or TLS with resolution DYNAMIC_DNS: the host's name comes with the request";
                self.error(&at.index(index).field("protocol"), message);
            }
        }
    }

    fn endpoint(self, endpoint: &WorkloadEntry, entry: &ServiceEntry, ports: &HashSet<&str>, at: &Path<'_>) {
        self.workload_entry(endpoint, at);
        let address = &endpoint.address;
        let by_name = !address.is_empty() && !address.starts_with("unix://") && !is_ip(address);
        if entry.resolution == Resolution::Static && by_name {
            self.error(&at.field("address"), format!("must be an IP address with resolution STATIC, is {address:?}"));
        }
        if address.starts_with("unix://") && entry.ports.len() != 1 {
            self.error(&at.field("address"), "a Unix socket needs a ServiceEntry of exactly one port");
        }
        for (name, _) in endpoint.ports.iter().visiting(Visited::Written) {
            if !ports.contains(name.as_str()) {
                self.error(&at.field("ports").key(name), "the ServiceEntry has no port of this name");
            }
        }
    }

    pub(super) fn workload_entry(self, entry: &WorkloadEntry, at: &Path<'_>) {
        let address = at.field("address");
        match entry.address.strip_prefix("unix://") {
            Some(path) => {
                self.socket_path(path, &address);
                if !entry.ports.is_empty() {
                    self.error(&at.field("ports"), "is not possible for a Unix socket");
                }
            }
            None if entry.address.is_empty() && entry.network.is_empty() => self.error(&address, "is missing"),
            None if entry.address.is_empty() => self.warning(&address, "is missing: only its network is known"),
            None if !is_ip(&entry.address) && !is_host(&entry.address) => {
                self.error(&address, format!("must be an IP address or a host name, is {:?}", entry.address));
            }
            None => {}
        }
        for (name, number) in &entry.ports {
            let ports = at.field("ports");
            self.port_name(name, &ports.key(name));
            self.port_number(*number, &ports.key(name));
        }
        self.labels(&entry.labels, &at.field("labels"));
    }
}

//! Checks VirtualService as a whole, its destinations, and its TLS and TCP routes.

use smol_str::SmolStr;

use super::{
    Check,
    host::{is_host, is_ip, is_partial_wildcard, is_wildcard_host},
    text::is_dns_label,
};
use crate::{
    api::{
        findings::Path,
        host_index::HostIndex,
        istio::{Destination, L4Match, RouteDestination, VirtualService},
    },
    patience::Patient,
};

/// What one list of an object has for each entry of another.
const MOST_PAIRS: usize = 200_000;

impl Check<'_> {
    pub(super) fn virtual_service(self, service: &VirtualService, at: &Path<'_>) {
        if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
            self.error(at, "needs http, tls or tcp");
        }
        let delegate = service.hosts.is_empty();
        if delegate {
            let given = [("gateways", service.gateways.len()), ("tls", service.tls.len()), ("tcp", service.tcp.len())];
            for (name, _) in given.into_iter().filter(|(_, count)| *count > 0) {
                self.error(&at.field(name), "is not possible without hosts: the object is a delegate");
            }
        }
        let mesh = service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
        self.gateway_names(&service.gateways, &at.field("gateways"));
        // Istio applies the rules for gateways to objects that are for both.
        self.hosts(&service.hosts, mesh && service.gateways.iter().all(|gateway| gateway == "mesh"), &at.field("hosts"));
        self.number_of_hosts(service, &at.field("hosts"));
        let http = at.field("http");
        for (index, route) in service.http.iter().enumerate().patiently() {
            self.http_route(route, delegate, &http.index(index));
        }
        self.repeated_http(&service.http, &http);
        let tls = at.field("tls");
        // What is no host has an error, and may be of any length.
        let hosts: HostIndex = service.hosts.iter().filter(|host| is_host_or_address(host)).collect();
        for (index, route) in service.tls.iter().enumerate().patiently() {
            let at = tls.index(index);
            if route.matches.is_empty() {
                self.error(&at.field("match"), "must not be empty");
            }
            self.l4_matches(&route.matches, Some(&hosts), &at.field("match"));
            self.l4_destinations(&route.route, &at.field("route"));
            self.l4_size(&route.matches, &route.route, &at);
        }
        self.repeated_tls(&service.tls, &tls);
        let tcp = at.field("tcp");
        for (index, route) in service.tcp.iter().enumerate().patiently() {
            let at = tcp.index(index);
            self.l4_matches(&route.matches, None, &at.field("match"));
            self.l4_destinations(&route.route, &at.field("route"));
            self.l4_size(&route.matches, &route.route, &at);
        }
        self.repeated_tcp(&service.tcp, &tcp);
        self.export_to(&service.export_to, false, &at.field("exportTo"));
    }

    fn hosts(self, hosts: &[SmolStr], mesh_only: bool, at: &Path<'_>) {
        let mut earlier = HostIndex::default();
        for (index, host) in hosts.iter().enumerate().patiently() {
            if mesh_only && host == "*" {
                self.error(&at.index(index), "* is not possible in the mesh, only at gateways");
            } else if !is_host_or_address(host) {
                self.error(&at.index(index), format!("must be a host name, perhaps with * as its first label, is {host:?}"));
                continue;
            }
            if let Some(earlier) = earlier.overlapping(host) {
                self.error(&at.index(index), format!("{host} overlaps with {}", hosts[earlier]));
            }
            earlier.insert(host, index);
        }
    }

    /// Checks how often its hosts are held against those of Gateways and against other objects.
    fn number_of_hosts(self, service: &VirtualService, at: &Path<'_>) {
        for (list, length) in [("gateways", service.gateways.len()), ("exportTo", service.export_to.len())] {
            let made = service.hosts.len().saturating_mul(length);
            if made > MOST_PAIRS {
                self.error(at, format!("hosts times {list} make {made}, more than the {MOST_PAIRS} that are possible: split it up"));
            }
        }
    }

    pub(super) fn gateway_names(self, names: &[SmolStr], at: &Path<'_>) {
        for (index, name) in names.iter().enumerate() {
            let valid = match name.split_once('/') {
                Some((namespace, name)) => is_dns_label(namespace) && is_dns_label(name),
                None => is_host(name),
            };
            if !valid {
                self.error(&at.index(index), format!("must be mesh, name or namespace/name, is {name:?}"));
            }
        }
    }

    pub(super) fn destination(self, destination: &Destination, at: &Path<'_>) {
        if destination.host == "*" || !is_wildcard_host(&destination.host) {
            let problem = if destination.host.is_empty() {
                "is missing".to_owned()
            } else {
                format!("must be a host name, is {:?}", destination.host)
            };
            self.error(&at.field("host"), problem);
        }
        if !destination.subset.is_empty() && !is_dns_label(&destination.subset) {
            self.error(&at.field("subset"), format!("must be letters, digits and - (at most 63), is {:?}", destination.subset));
        }
    }

    /// Checks the destinations of one route. A single one gets everything, and each of several gets its share of the total weight.
    pub(super) fn weights(self, route: &[RouteDestination], at: &Path<'_>) {
        let total: u64 = route.iter().map(|destination| u64::from(destination.weight)).sum();
        if route.len() > 1 && total == 0 {
            self.error(at, "the weights of several destinations must not all be 0");
        }
        // Envoy counts the total weight in 32 bits.
        if total > u64::from(u32::MAX) {
            self.error(at, format!("the sum of weights must be at most {}, is {total}", u32::MAX));
        }
        for (index, destination) in route.iter().enumerate() {
            self.destination(&destination.destination, &at.index(index).field("destination"));
        }
    }

    fn l4_destinations(self, route: &[RouteDestination], at: &Path<'_>) {
        if route.is_empty() {
            self.error(at, "must not be empty");
        }
        self.weights(route, at);
    }

    /// Checks how much comes of it: a chain for each match has all destinations, and Envoy holds each name with each network.
    fn l4_size(self, matches: &[L4Match], route: &[RouteDestination], at: &Path<'_>) {
        let conditions = matches.iter().map(|found| found.sni_hosts.len().max(1).saturating_mul(found.destination_subnets.len().max(1)));
        for (what, made) in
            [("sniHosts times destinationSubnets", conditions.sum()), ("matches times destinations", matches.len() * route.len())]
        {
            if made > MOST_PAIRS {
                self.error(at, format!("{what} make {made}, more than the {MOST_PAIRS} that are possible: split it up"));
            }
        }
    }

    // `hosts`: those of the object, for TLS.
    fn l4_matches(self, matches: &[L4Match], hosts: Option<&HostIndex>, at: &Path<'_>) {
        for (index, found) in matches.iter().enumerate().patiently() {
            let at = at.index(index);
            let subnets = at.field("destinationSubnets");
            for (index, subnet) in found.destination_subnets.iter().enumerate() {
                self.subnet(subnet, &subnets.index(index));
            }
            self.labels(&found.source_labels, &at.field("sourceLabels"));
            self.gateway_names(&found.gateways, &at.field("gateways"));
            match hosts {
                Some(hosts) => self.sni_hosts(&found.sni_hosts, hosts, &at.field("sniHosts")),
                None if found.sni_hosts.is_empty() => {}
                None => self.warning(&at.field("sniHosts"), "unknown field: it has no effect"),
            }
        }
    }

    fn sni_hosts(self, names: &[SmolStr], hosts: &HostIndex, at: &Path<'_>) {
        if names.is_empty() {
            self.error(at, "must not be empty");
        }
        for (index, name) in names.iter().enumerate() {
            let at = at.index(index);
            if is_ip(name) {
                self.warning(&at, "is an IP address, which clients do not send as a server name");
            } else if !is_wildcard_host(name) {
                self.error(&at, format!("must be a host name, perhaps with * as its first label, is {name:?}"));
            } else if is_partial_wildcard(name) {
                self.error(&at, format!("must be a name, or a wildcard that is a whole label (*.example.com), is {name:?}"));
            } else if hosts.covering(name).is_none() {
                self.error(&at, format!("{name} is not among the hosts of the object"));
            }
        }
    }
}

fn is_host_or_address(host: &SmolStr) -> bool {
    is_wildcard_host(host) || is_ip(host)
}

//! Rules of the API server for its own kinds, as far as breaking them would confuse proxies.

use std::{collections::HashSet, net::IpAddr};

use super::{Check, host::is_host};
use crate::api::{
    findings::Path,
    kubernetes::{EndpointSlice, Service},
};

impl Check<'_> {
    pub(super) fn service(self, service: &Service, at: &Path<'_>) {
        if let Some(name) = &service.external_name
            && !is_host(name)
        {
            self.error(&at.field("externalName"), format!("must be a host name, is {name:?}"));
        }
        let ports = at.field("ports");
        let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
        for (index, port) in service.ports.iter().enumerate() {
            let at = ports.index(index);
            if !port.name.is_empty() && !names.insert(&port.name) {
                self.error(&at.field("name"), format!("{} is given twice", port.name));
            }
            let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
            if !numbers.insert((port.port, protocol)) {
                self.error(&at.field("port"), format!("{}/{protocol} is given twice", port.port));
            }
        }
    }

    /// Checks an EndpointSlice. It has no `spec`: its fields stand beside the metadata.
    pub(super) fn endpoint_slice(self, slice: &EndpointSlice, _: &Path<'_>) {
        let at = &Path::Root;
        if slice.address_type == "FQDN" {
            return self.warning(&at.field("addressType"), "FQDN is not read: these endpoints have no effect");
        }
        let endpoints = at.field("endpoints");
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            let at = endpoints.index(index);
            let at = at.field("addresses");
            if endpoint.addresses.is_empty() {
                self.error(&at, "must not be empty");
            }
            for (index, address) in endpoint.addresses.iter().enumerate() {
                if address.parse::<IpAddr>().is_err() {
                    self.error(&at.index(index), format!("must be an IP address, is {address:?}"));
                }
            }
        }
    }
}

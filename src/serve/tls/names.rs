//! The names of a control plane, as its serving certificate carries them.

use std::net::IpAddr;

/// The names and addresses that a serving certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl ServingNames {
    /// Returns the names that istiod answers to in a namespace (contract §4.6).
    pub fn istiod(namespace: &str, revision: Option<&str>) -> Self {
        let mut hosts = vec!["istiod".to_owned(), "istiod-remote".to_owned(), "istio-pilot".to_owned()];
        hosts.extend(revision.filter(|revision| !matches!(*revision, "" | "default")).map(|revision| format!("istiod-{revision}")));
        Self { dns_names: hosts.into_iter().map(|host| format!("{host}.{namespace}.svc")).collect(), addresses: Vec::new() }
    }

    /// Adds the names of this machine, for clients on it.
    pub fn and_local(mut self) -> Self {
        self.dns_names.push("localhost".into());
        self.addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        self
    }

    /// Adds a name or address (`ISTIOD_CUSTOM_HOST`, the discovery address).
    pub fn and(mut self, host: &str) -> Self {
        match host.parse() {
            Ok(address) if !self.addresses.contains(&address) => self.addresses.push(address),
            Err(_) if !self.dns_names.iter().any(|name| name == host) => self.dns_names.push(host.to_owned()),
            _ => {}
        }
        self
    }
}

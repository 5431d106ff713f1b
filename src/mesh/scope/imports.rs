//! `egress[].hosts` of a Sidecar: which services and routes it lets in (contract §6.5).

use std::sync::Arc;

use smol_str::SmolStr;

use crate::mesh::{
    model::{Hostname, Service},
    routing::model::RouteSet,
    sidecar::{EgressHost, EgressNamespace},
};

/// Hosts by the namespace that they are imported from.
#[derive(Clone, Debug)]
pub(super) struct Imports {
    hosts: Vec<(From, Hostname)>,
}

#[derive(Clone, Debug, PartialEq)]
enum From {
    Any,
    Namespace(SmolStr),
}

impl Imports {
    /// Returns what `*/*` imports.
    pub(super) fn all() -> Self {
        Self { hosts: vec![(From::Any, Hostname::new("*"))] }
    }

    /// Returns the hosts of an egress listener, as proxies of `namespace` see them.
    pub(super) fn of(hosts: &[EgressHost], namespace: &str) -> Self {
        let from = |host: &EgressHost| match &host.namespace {
            EgressNamespace::Any => From::Any,
            EgressNamespace::Own => From::Namespace(namespace.into()),
            EgressNamespace::Named(named) => From::Namespace(named.clone()),
        };
        Self { hosts: hosts.iter().map(|host| (from(host), host.host.clone())).collect() }
    }

    /// Returns whether nothing is left out.
    pub(super) fn is_all(&self) -> bool {
        self.hosts.iter().any(|(from, host)| *from == From::Any && host.as_str() == "*")
    }

    /// Returns the service with those of its aliases that are imported too; `None` when it is not imported.
    pub(super) fn service(&self, service: &Arc<Service>) -> Option<Arc<Service>> {
        if !self.covers(&service.namespace, &service.hostname) {
            return None;
        }
        if service.aliases.iter().all(|alias| self.covers(&service.namespace, alias)) {
            return Some(Arc::clone(service));
        }
        let mut trimmed = Service::clone(service);
        trimmed.aliases.retain(|alias| self.covers(&service.namespace, alias));
        Some(Arc::new(trimmed))
    }

    /// Returns whether one of a VirtualService's hosts is imported: then all of it is.
    pub(super) fn routes(&self, routes: &RouteSet) -> bool {
        let hosts = self.from(&routes.namespace).collect::<Vec<_>>();
        routes.hosts.iter().any(|host| hosts.iter().any(|imported| imported.overlaps(host)))
    }

    fn covers(&self, namespace: &str, host: &Hostname) -> bool {
        self.from(namespace).any(|imported| imported.covers(host))
    }

    fn from(&self, namespace: &str) -> impl Iterator<Item = &Hostname> {
        let matching = self.hosts.iter().filter(move |(from, _)| match from {
            From::Any => true,
            From::Namespace(named) => named == namespace,
        });
        matching.map(|(_, host)| host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_of_the_namespace_that_the_proxy_gives_them() {
        let host = |namespace, host| EgressHost { namespace, host: Hostname::new(host) };
        let hosts = [host(EgressNamespace::Own, "*"), host(EgressNamespace::Named("strict".into()), "a.strict.svc")];
        let imports = Imports::of(&hosts, "scoped");
        assert!(imports.covers("scoped", &Hostname::new("x")));
        assert!(imports.covers("strict", &Hostname::new("a.strict.svc")));
        assert!(!imports.covers("strict", &Hostname::new("b.strict.svc")));
        assert!(!imports.covers("other", &Hostname::new("x")));
        assert!(!imports.is_all());
        assert!(Imports::of(&[host(EgressNamespace::Any, "*")], "scoped").is_all());
    }
}

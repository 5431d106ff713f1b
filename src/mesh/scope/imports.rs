//! `egress[].hosts` of a Sidecar: which services and routes it lets in (contract §6.5).

use std::{collections::BTreeMap, sync::Arc};

use smol_str::SmolStr;

use crate::{
    api::host_index::HostIndex,
    mesh::{
        model::{Hostname, Service},
        routing::model::RouteSet,
        sidecar::{EgressHost, EgressNamespace},
    },
    visits::{Visit, Visited},
};

/// Hosts by the namespace that they are imported from.
#[derive(Clone, Debug, Default)]
pub(super) struct Imports {
    from_any: HostIndex,
    from_namespaces: BTreeMap<SmolStr, HostIndex>,
    is_all: bool,
}

impl Imports {
    /// Returns what `*/*` imports.
    pub(super) fn all() -> Self {
        Self { from_any: ["*"].iter().collect(), is_all: true, ..Self::default() }
    }

    /// Returns the hosts of an egress listener, as proxies of `namespace` see them.
    pub(super) fn of(hosts: &[EgressHost], namespace: &str) -> Self {
        let mut imports = Self::default();
        for (place, host) in hosts.iter().enumerate() {
            let from = match &host.namespace {
                EgressNamespace::Any => &mut imports.from_any,
                EgressNamespace::Own => imports.from_namespaces.entry(namespace.into()).or_default(),
                EgressNamespace::Named(named) => imports.from_namespaces.entry(named.clone()).or_default(),
            };
            from.insert(host.host.as_str(), place);
            imports.is_all |= host.namespace == EgressNamespace::Any && host.host.as_str() == "*";
        }
        imports
    }

    /// Returns whether nothing is left out.
    pub(super) fn is_all(&self) -> bool {
        self.is_all
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
        routes
            .hosts
            .iter()
            .visiting(Visited::Written)
            .any(|host| self.from(&routes.namespace).any(|imported| imported.overlapping(host.as_str()).is_some()))
    }

    fn covers(&self, namespace: &str, host: &Hostname) -> bool {
        self.from(namespace).any(|imported| imported.covering(host.as_str()).is_some())
    }

    fn from(&self, namespace: &str) -> impl Iterator<Item = &HostIndex> {
        std::iter::once(&self.from_any).chain(self.from_namespaces.get(namespace))
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

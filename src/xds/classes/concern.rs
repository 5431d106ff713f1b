//! Which proxies a change may put into another class.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::{groups::ScopedHosts, users::Keys};
use crate::mesh::{
    model::{Hostname, Proxy, ProxyKind, ServiceKey},
    world::{Touched, World},
};

/// The proxies whose class or own side a change may alter.
pub(super) struct Concern<'a> {
    world: &'a World,
    touched: &'a Touched,
    /// Hosts that a scope sees otherwise, because routes import them now or no longer.
    imported: ScopedHosts,
    /// Those of which proxies may now answer for other services, or answer differently.
    namespaces: BTreeSet<SmolStr>,
    /// Whether gateways may have other listeners or routes.
    at_gateways: bool,
}

impl<'a> Concern<'a> {
    /// Finds out whom a change that led to this world concerns. `imported` are the hosts that scopes see otherwise.
    pub(super) fn of(world: &'a World, touched: &'a Touched, imported: ScopedHosts) -> Self {
        let services = touched.services.iter().chain(&touched.endpoints).flat_map(|host| world.services_named(host));
        let namespaces = touched.namespaces.iter().cloned().chain(services.map(|service| service.namespace.clone())).collect();
        let at_gateways = !touched.services.is_empty() || !touched.routes.is_empty() || !touched.gateways.is_empty();
        Self { world, touched, imported, namespaces, at_gateways }
    }

    /// Returns whether a proxy, sorted as `keys` say, may have to be sorted otherwise.
    pub(super) fn covers(&self, proxy: &Proxy, keys: &Keys) -> bool {
        let touched = self.touched;
        let own_endpoints = !touched.endpoints.is_empty() && keys.have_endpoints();
        touched.everything
            || self.namespaces.contains(&proxy.namespace)
            || own_endpoints
            || (self.at_gateways && proxy.kind == ProxyKind::Gateway)
            || touched.policies.iter().any(|reach| reach.covers(&proxy.namespace, &proxy.labels))
            || self.addresses(proxy)
            || self
                .imported
                .get(&keys.shared.scope)
                .is_some_and(|hosts| hosts.iter().any(|host| self.may_answer_for(proxy, host) || self.world.mesh.providers.report_to(host)))
    }

    /// Returns whether something changed at the proxy's addresses, or about a service of any namespace that has an endpoint there:
    /// a rule for it counts on the proxy's own side too.
    fn addresses(&self, proxy: &Proxy) -> bool {
        let touched = self.touched;
        let changed = |key: &ServiceKey| touched.services.contains(&key.hostname);
        let answers_for_changed = |ip| self.world.services_at.get(ip).is_some_and(|services| services.iter().any(changed));
        proxy.ips.iter().any(|ip| touched.addresses.contains(ip) || (!touched.services.is_empty() && answers_for_changed(ip)))
    }

    /// Returns whether the proxy is of the host's namespace, or stands at an endpoint of it.
    fn may_answer_for(&self, proxy: &Proxy, host: &Hostname) -> bool {
        let at_endpoint = |ip| self.world.services_at.get(ip).is_some_and(|keys| keys.iter().any(|key| key.hostname == *host));
        self.world.services_named(host).any(|service| service.namespace == proxy.namespace) || proxy.ips.iter().any(at_endpoint)
    }
}

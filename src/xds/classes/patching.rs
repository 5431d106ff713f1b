//! Which patches of EnvoyFilters are for which part of a proxy's view. A group holds those alone that may be for what it has: others
//! share it with proxies that no filter selects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use smol_str::SmolStr;

use crate::{
    mesh::{
        envoy_filter::{ApplyTo, ObjectMatch, Patch, PatchContext, PatchOperation},
        model::{Flavour, Hostname, Proxy, ProxyKind},
        policy::envoy_filter::Patches,
        scope::service_targets,
        world::World,
    },
    translate::{naming::INBOUND_PASSTHROUGH_CLUSTER, patch::fits_cluster},
    xds::encode::patched::Capabilities,
};

/// The patches for the resources of one group, and for what proxies they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Patching {
    pub(super) patches: Patches,
    pub(super) kind: ProxyKind,
    pub(super) having: Capabilities,
    /// The services behind the clusters of the workload itself, by the workload's port, as far as patches ask for them.
    pub(super) hosts: BTreeMap<u16, BTreeSet<Hostname>>,
}

impl Patching {
    /// Returns all that are for a proxy.
    pub(super) fn of(world: &World, proxy: &Proxy) -> Self {
        Self { patches: Patches::of(world, proxy), ..Self::none(proxy.kind, proxy.flavour) }
    }

    /// Returns no patches.
    pub(super) fn none(kind: ProxyKind, flavour: Flavour) -> Self {
        let having = Capabilities { flavour, extensions: Arc::default() };
        Self { patches: Patches::default(), kind, having, hosts: BTreeMap::new() }
    }

    /// Adds the names of the extension configurations that proxies are given, of those that patches add; `names` says which can be
    /// sent.
    pub(super) fn with_extensions(mut self, names: impl FnOnce(&Patches, &Capabilities) -> BTreeSet<SmolStr>) -> Self {
        let adding = self.patches.that(|patch| patch.apply_to == ApplyTo::ExtensionConfig);
        if !adding.is_empty() {
            self.having.extensions = Arc::new(names(&adding, &self.having));
        }
        self
    }

    /// Adds the services behind a sidecar's clusters.
    pub(super) fn behind(mut self, world: &World, proxy: &Proxy) -> Self {
        if self.patches.as_slice().iter().any(|patch| names_service(patch)) {
            for target in service_targets(world, proxy) {
                self.hosts.entry(target.target_port).or_default().insert(target.service.hostname.clone());
            }
        }
        self
    }

    /// Returns those for clusters and routes that proxies of a scope share.
    pub(super) fn of_scope(&self) -> Self {
        let is_for = |patch: &Patch| match patch.apply_to {
            ApplyTo::Cluster => !adds(patch) && (patch.is_in(self.outward()) || self.is_for_passthrough(patch)),
            apply_to => self.kind == ProxyKind::Sidecar && apply_to.is_of_routes() && patch.is_in(PatchContext::SidecarOutbound),
        };
        self.that(is_for)
    }

    /// Returns those for outbound listeners.
    pub(super) fn of_outbound_listeners(&self) -> Self {
        self.that(|patch| patch.apply_to.is_of_listeners() && !adds(patch) && patch.is_in(PatchContext::SidecarOutbound))
    }

    /// Returns those for what proxies have of their own.
    pub(super) fn of_own(&self) -> Self {
        let context = match self.kind {
            ProxyKind::Sidecar => PatchContext::SidecarInbound,
            ProxyKind::Gateway => PatchContext::Gateway,
        };
        self.that(|patch| patch.is_in(context) && !adds(patch))
    }

    /// Returns those that add whole resources.
    pub(super) fn of_added(&self) -> Self {
        let is_of_kind = |patch: &Patch| match patch.context {
            PatchContext::Any => true,
            PatchContext::SidecarInbound | PatchContext::SidecarOutbound => self.kind == ProxyKind::Sidecar,
            PatchContext::Gateway => self.kind == ProxyKind::Gateway,
            PatchContext::Waypoint => false,
        };
        // Whoever asks for an extension configuration gets it, whatever its context.
        self.that(|patch| adds(patch) && (patch.apply_to == ApplyTo::ExtensionConfig || is_of_kind(patch)))
    }

    /// Returns those for the cluster of that name.
    pub(super) fn of_cluster(&self, name: &str) -> Patches {
        let port = name.strip_prefix("inbound|").and_then(|rest| rest.split('|').next()?.parse().ok());
        let is_inbound = port.is_some() || name == INBOUND_PASSTHROUGH_CLUSTER;
        let none = BTreeSet::new();
        let hosts = port.and_then(|port: u16| self.hosts.get(&port)).unwrap_or(&none);
        let context = if is_inbound { PatchContext::SidecarInbound } else { self.outward() };
        self.patches.that(|patch| patch.apply_to == ApplyTo::Cluster && patch.is_in(context) && fits_cluster(patch, name, hosts))
    }

    /// Returns those for route tables.
    pub(super) fn of_routes(&self) -> Patches {
        self.patches.that(|patch| patch.apply_to.is_of_routes() && patch.is_in(self.outward()))
    }

    /// Returns the context of what leads to services.
    fn outward(&self) -> PatchContext {
        match self.kind {
            ProxyKind::Sidecar => PatchContext::SidecarOutbound,
            ProxyKind::Gateway => PatchContext::Gateway,
        }
    }

    /// Returns whether a patch is for the one cluster of the workload itself that sidecars of a scope share.
    fn is_for_passthrough(&self, patch: &Patch) -> bool {
        self.kind == ProxyKind::Sidecar
            && patch.is_in(PatchContext::SidecarInbound)
            && fits_cluster(patch, INBOUND_PASSTHROUGH_CLUSTER, &BTreeSet::new())
    }

    fn that(&self, keep: impl Fn(&Patch) -> bool) -> Self {
        let patches = self.patches.that(keep);
        match patches.is_empty() {
            true => Self::none(self.kind, self.having.flavour),
            false => Self { patches, ..self.clone() },
        }
    }
}

/// Returns whether a patch is for the clusters of a service.
fn names_service(patch: &Patch) -> bool {
    matches!(&patch.object, Some(ObjectMatch::Cluster(of)) if !of.service.is_empty())
}

/// Returns whether a patch adds a whole resource.
fn adds(patch: &Patch) -> bool {
    let is_whole = matches!(patch.apply_to, ApplyTo::Listener | ApplyTo::Cluster | ApplyTo::ExtensionConfig);
    is_whole && patch.operation == PatchOperation::Add
}

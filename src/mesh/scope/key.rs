//! What decides about a proxy's scope: proxies of equal key get equal scopes.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::{
    api::{ObjectKey, selects},
    mesh::{
        model::{Labels, ProxyKind},
        world::{Sidecar, World},
    },
    visits::{Visit, Visited},
};

/// All that a scope depends on in a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeKey {
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// Configuration namespace.
    pub namespace: SmolStr,
    /// The Sidecar object that applies.
    pub sidecar: Option<ObjectKey>,
    /// DestinationRules with a `workloadSelector` that selects it; sorted.
    pub rules: Vec<ObjectKey>,
}

impl ScopeKey {
    /// Returns the Sidecar object, as it is now.
    pub(super) fn sidecar(&self, world: &World) -> Option<Arc<Sidecar>> {
        let key = self.sidecar.as_ref()?;
        world.sidecars.get(&(key.namespace.clone(), key.name.clone())).cloned()
    }
}

/// Returns the key of a proxy's scope.
pub fn scope_key(world: &World, kind: ProxyKind, namespace: &str, labels: &Labels) -> ScopeKey {
    // Gateways are never restricted by Sidecar objects.
    let sidecar = (kind == ProxyKind::Sidecar).then(|| sidecar_for(world, namespace, labels)).flatten();
    let rules = world.destination_rules.in_namespace(namespace).visiting(Visited::Object);
    let selecting = rules.filter(|rule| rule.spec.workload_selector.as_ref().is_some_and(|selector| selects(selector, labels)));
    ScopeKey {
        kind,
        namespace: namespace.into(),
        sidecar: sidecar.map(|sidecar| sidecar.origin.object.clone()),
        rules: selecting.map(|rule| rule.origin.object.clone()).collect(),
    }
}

/// Returns the Sidecar for a workload: one that selects it, else the namespace's own, else the root namespace's; the
/// oldest of several (contract §6.5).
fn sidecar_for(world: &World, namespace: &str, labels: &Labels) -> Option<Arc<Sidecar>> {
    world.sidecars.effective(&world.mesh.root_namespace, namespace, labels).narrowest().cloned()
}

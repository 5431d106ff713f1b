//! What decides about a proxy's scope: proxies of equal key get equal scopes.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::{
    api::ObjectKey,
    mesh::{
        engine::selects,
        model::{Labels, ProxyKind},
        world::{Sidecar, World},
    },
};

/// All that [`super::scope`] reads of a proxy.
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

/// The key of a proxy's scope.
pub fn scope_key(world: &World, kind: ProxyKind, namespace: &str, labels: &Labels) -> ScopeKey {
    let sidecar = applying_sidecar(world, kind, namespace, labels);
    let from = (namespace.into(), SmolStr::default());
    let rules = world.destination_rules.range(from..).take_while(|((of, _), _)| of == namespace).map(|(_, rule)| rule);
    let selecting = rules.filter(|rule| rule.spec.workload_selector.as_ref().is_some_and(|selector| selects(selector, labels)));
    ScopeKey {
        kind,
        namespace: namespace.into(),
        sidecar: sidecar.map(|sidecar| sidecar.origin.object.clone()),
        rules: selecting.map(|rule| rule.origin.object.clone()).collect(),
    }
}

/// The Sidecar for a workload: one that selects it, else the namespace's own, else the root namespace's; the oldest of
/// several (contract §6.5).
pub fn sidecar_for(world: &World, namespace: &str, labels: &Labels) -> Option<Arc<Sidecar>> {
    let selector = |sidecar: &Sidecar| sidecar.spec.workload_selector.clone().filter(|selector| !selector.is_empty());
    let selecting = oldest(world, namespace, |sidecar| selector(sidecar).is_some_and(|selector| selects(&selector, labels)));
    selecting
        .or_else(|| oldest(world, namespace, |sidecar| selector(sidecar).is_none()))
        .or_else(|| oldest(world, &world.mesh.root_namespace, |sidecar| selector(sidecar).is_none()))
        .cloned()
}

/// Gateways are never restricted by Sidecar objects.
pub(super) fn applying_sidecar(world: &World, kind: ProxyKind, namespace: &str, labels: &Labels) -> Option<Arc<Sidecar>> {
    match kind {
        ProxyKind::Sidecar => sidecar_for(world, namespace, labels),
        ProxyKind::Gateway => None,
    }
}

fn oldest<'a>(world: &'a World, namespace: &str, wanted: impl Fn(&Sidecar) -> bool) -> Option<&'a Arc<Sidecar>> {
    let from = (namespace.into(), SmolStr::default());
    let all = world.sidecars.range(from..).take_while(|((of, _), _)| of == namespace).map(|(_, sidecar)| sidecar);
    all.filter(|sidecar| wanted(sidecar)).min_by(|a, b| a.precedence.cmp(&b.precedence))
}

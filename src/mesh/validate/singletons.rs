//! Kinds of which one object counts for a namespace: Sidecars and PeerAuthentications without a selector.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, Labels},
    mesh::{
        model::{Origin, Precedence},
        world::World,
    },
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let whole = |selector: &Option<Labels>| selector.as_ref().is_none_or(Labels::is_empty);
    let sidecars = world.sidecars.values().filter(|sidecar| whole(&sidecar.spec.workload_selector));
    let peers = world.peer_authentications.values().filter(|policy| whole(&policy.spec.selector));
    let mut found = younger(sidecars.map(|sidecar| (&sidecar.precedence, &sidecar.origin)));
    found.extend(younger(peers.map(|policy| (&policy.precedence, &policy.origin))));
    found
}

fn younger<'a>(objects: impl Iterator<Item = (&'a Precedence, &'a Origin)>) -> Vec<Diagnostic> {
    let mut by_namespace: BTreeMap<&SmolStr, Vec<(&Precedence, &Origin)>> = BTreeMap::new();
    for (precedence, origin) in objects {
        by_namespace.entry(&origin.object.namespace).or_default().push((precedence, origin));
    }
    let mut found = Vec::new();
    for mut objects in by_namespace.into_values() {
        objects.sort();
        let Some((_, first)) = objects.first() else { continue };
        let message = format!("{} is for the whole namespace too and goes first by age, then name: this one is ignored", first.object);
        found.extend(objects[1..].iter().map(|(_, origin)| Diagnostic::warning("", message.clone()).of(&origin.object)));
    }
    found
}

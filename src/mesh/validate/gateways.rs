//! Gateways that no workload serves.

use std::collections::BTreeMap;

use crate::{
    api::{Diagnostic, Labels, selects},
    mesh::world::{Gateway, World},
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    // Many Gateways share one selector.
    let mut selected: BTreeMap<&Labels, bool> = BTreeMap::new();
    let mut found = Vec::new();
    for gateway in world.gateways.values().visiting(Visited::Object) {
        let selector = &gateway.spec.selector;
        if !*selected.entry(selector).or_insert_with(|| any_pod(world, selector)) {
            found.push(unserved(gateway));
        }
    }
    found
}

/// Returns what is doubtful about one Gateway.
pub(super) fn of(world: &World, gateway: &Gateway) -> Vec<Diagnostic> {
    if any_pod(world, &gateway.spec.selector) { Vec::new() } else { vec![unserved(gateway)] }
}

fn any_pod(world: &World, selector: &Labels) -> bool {
    world.workloads.values().visiting(Visited::Object).any(|pod| selects(selector, &pod.labels))
}

fn unserved(gateway: &Gateway) -> Diagnostic {
    let labels: Vec<String> = gateway.spec.selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let message = format!("no pod has the labels {}: nothing serves this Gateway", labels.join(","));
    Diagnostic::warning("spec.selector", message).of(&gateway.origin.object)
}

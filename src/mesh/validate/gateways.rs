//! Gateways that no workload serves.

use std::collections::BTreeMap;

use crate::{
    api::{Diagnostic, Labels},
    mesh::{engine::selects, world::World},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    // Many Gateways share one selector.
    let mut selected: BTreeMap<&Labels, bool> = BTreeMap::new();
    let mut found = Vec::new();
    for gateway in world.gateways.values() {
        let selector = &gateway.spec.selector;
        let any = selected.entry(selector).or_insert_with(|| world.workloads.values().any(|pod| selects(selector, &pod.labels)));
        if !*any {
            let labels: Vec<String> = selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let message = format!("no pod has the labels {}: nothing serves this Gateway", labels.join(","));
            found.push(Diagnostic::warning("spec.selector", message).of(&gateway.origin.object));
        }
    }
    found
}

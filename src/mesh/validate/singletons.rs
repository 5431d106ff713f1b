//! Kinds of which one object counts for a namespace: Sidecars, PeerAuthentications, ProxyConfigs and Telemetries without
//! a selector.

use crate::{
    api::Diagnostic,
    mesh::{
        policy_table::{Policy, PolicyTable},
        world::World,
    },
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let mut found = without_effect(&world.sidecars);
    found.extend(without_effect(&world.peer_authentications));
    found.extend(without_effect(&world.proxy_configs));
    found.extend(without_effect(&world.telemetries));
    found
}

fn without_effect<T: Policy>(table: &PolicyTable<T>) -> Vec<Diagnostic> {
    let told = table.eclipsed().into_iter().map(|(younger, older)| {
        let message =
            format!("{} is for the whole namespace too and goes first by age, then name: this one is ignored", older.origin.object);
        Diagnostic::warning("", message).of(&younger.origin.object)
    });
    told.collect()
}

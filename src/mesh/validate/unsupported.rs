//! What objects ask for and is not built yet. Without it something would stay open, so that it is an error.

use crate::{
    api::{Diagnostic, Id, ObjectKey},
    mesh::{
        unsupported::{ALLOW_UNSUPPORTED, Unsupported, allows},
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.unsupported.values().visiting(Visited::Object).flat_map(|unsupported| findings(world, unsupported)).collect()
}

/// Returns what is missing of one object.
pub(super) fn of(world: &World, object: &ObjectKey) -> Vec<Diagnostic> {
    let Id::Config(id) = Id::from(object) else { return Vec::new() };
    world.unsupported.get(&id).into_iter().flat_map(|unsupported| findings(world, unsupported)).collect()
}

fn findings(world: &World, unsupported: &Unsupported) -> impl Iterator<Item = Diagnostic> {
    let object = &unsupported.origin.object;
    let allowed = unsupported.allowed || world.namespaces.get(&object.namespace).is_some_and(|labels| allows(labels));
    unsupported.demands.iter().map(move |demand| {
        let (field, consequence) = (demand.field.clone(), &demand.consequence);
        let finding = match allowed {
            true => Diagnostic::warning(field, consequence.clone()),
            false => Diagnostic::error(field, format!("{consequence}; label {ALLOW_UNSUPPORTED}: \"true\" stores it all the same")),
        };
        finding.of(object)
    })
}

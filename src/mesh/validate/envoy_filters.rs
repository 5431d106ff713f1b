//! Patches of EnvoyFilters that are no messages of Envoy's: the object stays as it was before, or each is left out alone.

use std::sync::Arc;

use crate::{
    api::Diagnostic,
    mesh::{configured::Configured, envoy_filter::EnvoyFilter, world::World},
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.envoy_filters.values().visiting(Visited::Object).flat_map(of).collect()
}

/// Returns what is wrong with the patches of one object.
pub(super) fn of(filter: &Arc<Configured<EnvoyFilter>>) -> Vec<Diagnostic> {
    let outcome = match filter.spec.earlier.first() {
        Some(earlier) => format!("all of the object stays as it was before{}", earlier.origin.in_brackets()),
        None => "this patch is left out, and the others are applied".to_owned(),
    };
    let found = filter.spec.unusable.iter().map(|unusable| {
        let message = format!("{}: {outcome}", unusable.what);
        Diagnostic::error(unusable.field.clone(), message).of(&filter.origin.object)
    });
    found.collect()
}

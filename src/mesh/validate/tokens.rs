//! RequestAuthentications whose issuers' keys could not be fetched.

use std::sync::Arc;

use crate::{
    api::Diagnostic,
    mesh::{
        configured::Configured,
        request_authentication::{Keys, RequestAuthentication},
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.request_authentications.values().visiting(Visited::Object).flat_map(|object| of(world, object)).collect()
}

/// Returns what is wrong with the keys that one object wants.
pub(super) fn of(world: &World, object: &Arc<Configured<RequestAuthentication>>) -> Vec<Diagnostic> {
    let rules = object.spec.rules.iter().enumerate();
    let found = rules.filter_map(|(index, rule)| {
        let Keys::At(url) = &rule.keys else { return None };
        let fetched = world.key_sets.get(url);
        let (had, trouble) =
            (fetched.is_some_and(|fetched| fetched.keys.is_some()), fetched.and_then(|fetched| fetched.trouble.as_deref()));
        let what = match (had, trouble) {
            (true, None) => return None,
            (true, Some(why)) => format!("keys cannot be fetched again, and the last ones stay: {why}"),
            (false, Some(why)) => format!("keys cannot be fetched, and until they are no token of this issuer is good: {why}"),
            (false, None) => format!("keys are not fetched yet ({url}): until then no token of this issuer is good"),
        };
        Some(Diagnostic::warning(format!("spec.jwtRules[{index}]"), what).of(&object.origin.object))
    });
    found.collect()
}

//! Extensions whose modules a registry may not hand out.

use std::sync::Arc;

use crate::{
    api::{Diagnostic, Kind},
    mesh::{configured::Configured, extension::Extension, policy::extensions::pull_secret, world::World},
    visits::{Visit, Visited},
};

const THEN: &str = "proxies that do not have the module already cannot fetch it, and failStrategy says what becomes of their traffic";

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.extensions.values().visiting(Visited::Object).filter_map(|extension| of(world, extension)).collect()
}

/// Returns what is wrong with the Secret that an extension names.
pub(super) fn of(world: &World, extension: &Arc<Configured<Extension>>) -> Option<Diagnostic> {
    let object = &extension.origin.object;
    let name = extension.spec.module()?.pull_secret.as_ref()?;
    let secret = pull_secret(world, extension)?;
    let why = secret.trouble.as_ref()?;
    let field = if object.kind == Kind::WasmPlugin { "spec.imagePullSecret" } else { "spec.wasm.imagePullSecret" };
    Some(Diagnostic::warning(field, format!("Secret {}/{name} {why}: {THEN}", object.namespace)).of(object))
}

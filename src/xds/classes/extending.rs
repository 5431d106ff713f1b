//! Code of users' own as a proxy is given it.

use std::collections::BTreeSet;

use crate::{
    api::Kind,
    mesh::{
        configured::Configured,
        extension::{Extension, FailStrategy, Module},
        model::Proxy,
        policy::extensions::{pull_secret, workload_extensions},
        world::World,
    },
    translate::{
        extension::{ExtensionInput, Pull},
        listener::{Reason, Refused},
    },
};

/// What filters of users' own do in a proxy.
pub(super) struct Extending {
    pub(super) extensions: Vec<ExtensionInput>,
    /// What it cannot run.
    pub(super) refused: BTreeSet<Refused>,
}

/// Finds what filters of users' own do in a proxy. What a registry asks for is for callers alone who have proven to be of the proxy's
/// namespace.
pub(super) fn extending(world: &World, proxy: &Proxy, proven: bool) -> Extending {
    let mut refused = BTreeSet::new();
    let extensions = workload_extensions(world, &proxy.namespace, &proxy.labels).into_iter().map(|extension| {
        let obstacle = extension.spec.module().and_then(|module| obstacle(proxy, module));
        let runs = obstacle.is_none();
        refused.extend(obstacle.map(|reason| Refused::new(&extension.origin, url_field(&extension), reason)));
        ExtensionInput { pull: pull(world, &extension, proven), extension, runs }
    });
    let extensions = extensions.collect();
    Extending { extensions, refused }
}

/// Returns why a proxy cannot run a module.
fn obstacle(proxy: &Proxy, module: &Module) -> Option<Reason> {
    let open = module.fail_strategy == FailStrategy::Open;
    if !proxy.wasm.runs {
        return Some(Reason::NoWasm(open));
    }
    (module.url.is_remote() && !proxy.wasm.fetches).then_some(Reason::NotFetched(open))
}

fn url_field(extension: &Configured<Extension>) -> &'static str {
    if extension.origin.object.kind == Kind::WasmPlugin { "spec.url" } else { "spec.wasm.url" }
}

fn pull(world: &World, extension: &Configured<Extension>, proven: bool) -> Pull {
    match pull_secret(world, extension) {
        None => Pull::Nothing,
        Some(secret) => secret.credentials.clone().filter(|_| proven).map_or(Pull::Missing, Pull::Credentials),
    }
}

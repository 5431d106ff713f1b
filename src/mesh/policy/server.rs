//! The services that providers of MeshConfig name: whom proxies ask, and whom they report to.

use smol_str::SmolStr;

use crate::mesh::{model::Hostname, providers::named, world::World};

/// Why nobody can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoServer {
    /// There is no such service.
    #[error("there is no service {0}, which extensionProviders of MeshConfig name for it")]
    Service(SmolStr),
    /// There are several.
    #[error("several namespaces define {0}, which extensionProviders of MeshConfig name for it: write NAMESPACE/{0}")]
    Ambiguous(SmolStr),
}

/// Returns the host of the service that is written as `host` or `namespace/host`.
pub fn server(world: &World, written: &SmolStr) -> Result<Hostname, NoServer> {
    let (namespace, hostname) = named(written);
    let defining = world.services_named(&hostname).map(|service| &service.namespace);
    let mut namespaces: Vec<_> = defining.filter(|defining| namespace.is_none_or(|namespace| *defining == namespace)).collect();
    namespaces.dedup();
    match namespaces.len() {
        0 => Err(NoServer::Service(written.clone())),
        1 => Ok(hostname),
        _ => Err(NoServer::Ambiguous(written.clone())),
    }
}

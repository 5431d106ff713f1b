//! What a Sidecar imports in vain.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, host_index::HostIndex},
    mesh::{
        model::Hostname,
        scope::{EgressScope, Scope},
        sidecar::{Egress, EgressHost, EgressNamespace},
        world::World,
    },
    visits::{Visit, Visited},
};

/// Returns what the Sidecar of a scope imports in vain, sorted. It costs a pass over what is imported.
pub fn unused_imports(world: &World, scope: &Scope) -> Vec<Diagnostic> {
    let Some(sidecar) = &scope.sidecar else { return Vec::new() };
    let mut found = Vec::new();
    for (index, (written, egress)) in sidecar.spec.egress.iter().zip(&scope.egress).enumerate() {
        let mut warn = |field: &str, message: String| {
            found.push(Diagnostic::warning(format!("spec.egress[{index}].{field}"), message).of(&sidecar.origin.object));
        };
        let port = written.listener.as_ref().and_then(|listener| listener.port).filter(|port| *port != 0);
        if let Some(port) = port.filter(|_| egress.services.is_empty()) {
            let routed = if egress.routes.is_empty() { "" } else { "; routes alone open no port" };
            warn("port", format!("no imported service has port {port}: nothing listens there{routed}"));
            continue;
        }
        let imported = Imported::of(written, egress);
        for host in written.hosts.iter().filter(|host| !imported.has(host, world, scope)) {
            let of_port = port.map(|port| format!(" with port {port}")).unwrap_or_default();
            warn(
                "hosts",
                format!(
                    "{host} imports nothing: no service{of_port} and no route of that name is exported to namespace {}",
                    scope.namespace
                ),
            );
        }
    }
    found
}

/// What one listener shows.
struct Imported<'a> {
    egress: &'a EgressScope,
    /// The hosts that it shows routes of.
    routed: HostIndex,
    /// The namespaces that it shows something of; only where wildcards ask for it.
    namespaces: BTreeSet<&'a SmolStr>,
}

impl<'a> Imported<'a> {
    fn of(written: &Egress, egress: &'a EgressScope) -> Self {
        let asked = written.hosts.iter().any(|host| host.host.is_wildcard() && matches!(host.namespace, EgressNamespace::Named(_)));
        let services = egress.services.values().visiting(Visited::Service).map(|service| &service.namespace);
        let routes = egress.routes.values().flat_map(|listed| listed.iter()).visiting(Visited::Route).map(|set| &set.namespace);
        let routed = egress.routes.keys().visiting(Visited::Route).map(Hostname::as_str).collect();
        Self { egress, routed, namespaces: if asked { services.chain(routes).collect() } else { BTreeSet::new() } }
    }

    /// Returns whether an import brings something. Those that many write to be on the safe side (`./*`, `istio-system/*`) may bring nothing.
    fn has(&self, import: &EgressHost, world: &World, scope: &Scope) -> bool {
        let host = &import.host;
        if !host.is_wildcard() {
            return self.egress.services.contains_key(host) || self.routed.overlapping(host.as_str()).is_some();
        }
        match &import.namespace {
            EgressNamespace::Any | EgressNamespace::Own => true,
            EgressNamespace::Named(named) if *named == world.mesh.root_namespace || *named == scope.namespace => true,
            EgressNamespace::Named(named) => self.namespaces.contains(named),
        }
    }
}

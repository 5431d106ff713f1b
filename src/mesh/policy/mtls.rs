//! The mTLS mode that PeerAuthentications give a workload, and that clients expect of a namespace (contract §6.6).

use crate::{
    api::istio::{PeerAuthentication, PeerMtlsMode},
    mesh::{
        model::{EndpointSet, Labels, MtlsMode},
        policy_table::{Attachment, Effective, Policy},
        world::{EffectiveMtls, World},
    },
};

impl Policy for PeerAuthentication {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_selector(self.selector.as_ref())
    }
}

/// Returns the inbound modes of a workload: mesh, then namespace, then workload policy, each inheriting what it does not
/// say; of several on one level the oldest counts. PERMISSIVE when nothing is said.
pub fn workload_mtls(world: &World, namespace: &str, labels: &Labels) -> EffectiveMtls {
    let effective = world.peer_authentications.effective(&world.mesh.root_namespace, namespace, labels);
    let inherited = inherited(&effective);
    let Some(own) = effective.workload else { return EffectiveMtls { mode: inherited, ports: Vec::new() } };
    let mode = said(own.spec.mode).unwrap_or(inherited);
    let ports = own.spec.port_level.iter().map(|(port, level)| (*port, said(*level).unwrap_or(mode)));
    EffectiveMtls { mode, ports: ports.collect() }
}

/// Returns the mode that clients expect of a namespace's services: mesh and namespace policy only (contract §3.2).
pub fn service_mtls(world: &World, namespace: &str) -> MtlsMode {
    inherited(&world.peer_authentications.effective(&world.mesh.root_namespace, namespace, &Labels::new()))
}

/// Returns whether there are endpoints and all take mTLS: then clusters that cannot choose by endpoint use it (contract §3.2).
pub fn all_take_mtls(endpoints: &EndpointSet) -> bool {
    let mut all = endpoints.ports.iter().flat_map(|(_, endpoints)| endpoints.iter()).peekable();
    all.peek().is_some() && all.all(|endpoint| endpoint.mtls)
}

/// Returns the mode of the namespace's policy, else that of the mesh's.
fn inherited(effective: &Effective<'_, PeerAuthentication>) -> MtlsMode {
    let modes = [effective.namespace, effective.mesh].into_iter().flatten().filter_map(|policy| said(policy.spec.mode));
    modes.into_iter().next().unwrap_or(MtlsMode::Permissive)
}

fn said(mode: PeerMtlsMode) -> Option<MtlsMode> {
    match mode {
        PeerMtlsMode::Unset => None,
        PeerMtlsMode::Disable => Some(MtlsMode::Disable),
        PeerMtlsMode::Permissive => Some(MtlsMode::Permissive),
        PeerMtlsMode::Strict => Some(MtlsMode::Strict),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::{Kind, Metadata, Object, ObjectKey, Spec, istio},
        mesh::configured::Configured,
    };

    fn policy(namespace: &str, name: &str, created: i64, spec: istio::PeerAuthentication) -> Configured<istio::PeerAuthentication> {
        let key =
            ObjectKey { cluster: "Kubernetes".into(), kind: Kind::PeerAuthentication, namespace: namespace.into(), name: name.into() };
        let metadata = Arc::new(Metadata { created, ..Metadata::default() });
        let spec = Arc::new(spec);
        let object = Object { key, version: "v1".into(), metadata, spec: Spec::PeerAuthentication(Arc::clone(&spec)) };
        Configured::new(&object, spec)
    }

    fn world(policies: impl IntoIterator<Item = Configured<istio::PeerAuthentication>>) -> World {
        let mut world = World::default();
        for policy in policies {
            let key = (policy.origin.object.namespace.clone(), policy.origin.object.name.clone());
            world.peer_authentications.replace(&key, Some(policy));
        }
        world
    }

    fn mode(mode: PeerMtlsMode) -> istio::PeerAuthentication {
        istio::PeerAuthentication { mode, ..Default::default() }
    }

    #[test]
    fn each_level_inherits_what_it_does_not_say() {
        let selected = istio::PeerAuthentication {
            selector: Some(Labels::from([("app".into(), "m".into())])),
            mode: PeerMtlsMode::Unset,
            port_level: vec![(8081, PeerMtlsMode::Disable), (8082, PeerMtlsMode::Unset)],
        };
        let world = world([
            policy("istio-system", "mesh", 1, mode(PeerMtlsMode::Strict)),
            policy("mixed", "default", 1, mode(PeerMtlsMode::Unset)),
            policy("mixed", "wl", 1, selected),
            policy("plain", "default", 1, mode(PeerMtlsMode::Disable)),
        ]);
        let labels = Labels::from([("app".into(), "m".into())]);
        let m = workload_mtls(&world, "mixed", &labels);
        assert_eq!((m.port(80), m.port(8081), m.port(8082)), (MtlsMode::Strict, MtlsMode::Disable, MtlsMode::Strict));
        assert_eq!(workload_mtls(&world, "mixed", &Labels::new()).port(8081), MtlsMode::Strict);
        assert_eq!(service_mtls(&world, "plain"), MtlsMode::Disable);
        assert_eq!(service_mtls(&World::default(), "plain"), MtlsMode::Permissive);
    }

    #[test]
    fn the_oldest_of_one_level_counts() {
        let world = world([policy("shop", "b", 2, mode(PeerMtlsMode::Disable)), policy("shop", "c", 1, mode(PeerMtlsMode::Strict))]);
        assert_eq!(service_mtls(&world, "shop"), MtlsMode::Strict);
    }
}

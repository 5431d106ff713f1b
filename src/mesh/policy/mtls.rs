//! The mTLS mode that PeerAuthentications give a workload, and that clients expect of a namespace (contract §6.6).

use crate::mesh::{
    model::{EndpointSet, Labels, MtlsMode},
    peer_authentication::PeerAuthentication,
    policy_table::{Attachment, Effective, Policy},
    world::{EffectiveMtls, World},
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
    let mode = own.spec.mode.unwrap_or(inherited);
    let ports = own.spec.ports.iter().map(|(port, own)| (*port, own.unwrap_or(mode)));
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
    let modes = [effective.namespace, effective.mesh].into_iter().flatten().filter_map(|policy| policy.spec.mode);
    modes.into_iter().next().unwrap_or(MtlsMode::Permissive)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::{Kind, ObjectKey},
        mesh::{
            configured::Configured,
            model::{Origin, Precedence},
        },
    };

    fn policy(namespace: &str, name: &str, created: i64, spec: PeerAuthentication) -> Configured<PeerAuthentication> {
        let object =
            ObjectKey { cluster: "Kubernetes".into(), kind: Kind::PeerAuthentication, namespace: namespace.into(), name: name.into() };
        Configured {
            spec: Arc::new(spec),
            precedence: Precedence { created, name: name.into(), namespace: namespace.into() },
            origin: Origin { object, generation: 1 },
        }
    }

    fn world(policies: impl IntoIterator<Item = Configured<PeerAuthentication>>) -> World {
        let mut world = World::default();
        for policy in policies {
            let key = (policy.origin.object.namespace.clone(), policy.origin.object.name.clone());
            world.peer_authentications.replace(&key, Some(policy));
        }
        world
    }

    fn mode(mode: MtlsMode) -> PeerAuthentication {
        PeerAuthentication { mode: Some(mode), ..PeerAuthentication::default() }
    }

    #[test]
    fn each_level_inherits_what_it_does_not_say() {
        let selected = PeerAuthentication {
            selector: Some(Labels::from([("app".into(), "m".into())])),
            mode: None,
            ports: vec![(8081, Some(MtlsMode::Disable)), (8082, None)],
        };
        let world = world([
            policy("istio-system", "mesh", 1, mode(MtlsMode::Strict)),
            policy("mixed", "default", 1, PeerAuthentication::default()),
            policy("mixed", "wl", 1, selected),
            policy("plain", "default", 1, mode(MtlsMode::Disable)),
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
        let world = world([policy("shop", "b", 2, mode(MtlsMode::Disable)), policy("shop", "c", 1, mode(MtlsMode::Strict))]);
        assert_eq!(service_mtls(&world, "shop"), MtlsMode::Strict);
    }
}

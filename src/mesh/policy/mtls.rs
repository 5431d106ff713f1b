//! The mTLS mode that PeerAuthentications give a workload, and that clients expect of a namespace (contract §6.6).

use std::sync::Arc;

use crate::{
    api::istio::PeerMtlsMode,
    mesh::{
        engine::selects,
        model::{EndpointSet, Labels, MtlsMode},
        world::{EffectiveMtls, PeerAuthentication, World},
    },
};

/// The inbound modes of a workload: mesh, then namespace, then workload policy, each inheriting what it does not say;
/// of several on one level the oldest counts. PERMISSIVE when nothing is said.
pub fn workload_mtls(world: &World, namespace: &str, labels: &Labels) -> EffectiveMtls {
    let inherited = service_mtls(world, namespace);
    let own = oldest(world, namespace, |policy| {
        policy.spec.selector.as_ref().is_some_and(|selector| !selector.is_empty() && selects(selector, labels))
    });
    let Some(own) = own else { return EffectiveMtls { mode: inherited, ports: Vec::new() } };
    let mode = said(own.spec.mode).unwrap_or(inherited);
    let ports = own.spec.port_level.iter().map(|(port, level)| (*port, said(*level).unwrap_or(mode)));
    EffectiveMtls { mode, ports: ports.collect() }
}

/// The mode that clients expect of a namespace's services: mesh and namespace policy only (contract §3.2).
pub fn service_mtls(world: &World, namespace: &str) -> MtlsMode {
    let root = &world.mesh.root_namespace;
    let of_namespace = (namespace != root.as_str()).then(|| namespace_mode(world, namespace)).flatten();
    of_namespace.or_else(|| namespace_mode(world, root)).unwrap_or(MtlsMode::Permissive)
}

/// Whether there are endpoints and all take mTLS: then clusters that cannot choose by endpoint use it (contract §3.2).
pub fn all_take_mtls(endpoints: &EndpointSet) -> bool {
    let mut all = endpoints.ports.iter().flat_map(|(_, endpoints)| endpoints.iter()).peekable();
    all.peek().is_some() && all.all(|endpoint| endpoint.mtls)
}

/// Whether a policy is for a whole namespace (or, in the root namespace, the mesh).
pub(in crate::mesh) fn is_namespace_wide(policy: &PeerAuthentication) -> bool {
    policy.spec.selector.as_ref().is_none_or(Labels::is_empty)
}

fn namespace_mode(world: &World, namespace: &str) -> Option<MtlsMode> {
    oldest(world, namespace, is_namespace_wide).and_then(|policy| said(policy.spec.mode))
}

fn oldest<'a>(world: &'a World, namespace: &str, wanted: impl Fn(&PeerAuthentication) -> bool) -> Option<&'a Arc<PeerAuthentication>> {
    let from = (namespace.into(), Default::default());
    let all = world.peer_authentications.range(from..).take_while(|((of, _), _)| of == namespace).map(|(_, policy)| policy);
    all.filter(|policy| wanted(policy)).min_by(|a, b| a.precedence.cmp(&b.precedence))
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
    use super::*;
    use crate::{
        api::{Kind, ObjectKey, istio},
        mesh::model::{Origin, Precedence},
    };

    fn policy(namespace: &str, name: &str, created: i64, spec: istio::PeerAuthentication) -> PeerAuthentication {
        let key =
            ObjectKey { cluster: "Kubernetes".into(), kind: Kind::PeerAuthentication, namespace: namespace.into(), name: name.into() };
        PeerAuthentication {
            spec: Arc::new(spec),
            precedence: Precedence { created, name: name.into(), namespace: namespace.into() },
            origin: Origin { object: key, generation: 0 },
        }
    }

    fn world(policies: impl IntoIterator<Item = PeerAuthentication>) -> World {
        let named = policies.into_iter().map(|policy| {
            let key = &policy.origin.object;
            ((key.namespace.clone(), key.name.clone()), Arc::new(policy))
        });
        World { peer_authentications: named.collect(), ..World::default() }
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

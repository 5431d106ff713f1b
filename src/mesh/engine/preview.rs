//! What the world would be with one more object: for what is to be said of it before it stands.

use std::sync::Arc;

use super::Engine;
use crate::{
    api::{Kind, Object, Spec},
    mesh::{model::Origin, routing::istio, world::World},
};

/// The world with this object, or with its new content: enough of it for [`crate::mesh::validate::of`]. It is made from
/// the world alone, which forgets how services came about and what delegates hold: kinds that make services and workloads
/// change nothing here, and routes of delegates are missing.
pub fn preview(world: &Arc<World>, object: &Arc<Object>) -> Arc<World> {
    let checked =
        [Kind::VirtualService, Kind::DestinationRule, Kind::Gateway, Kind::Sidecar, Kind::PeerAuthentication].contains(&object.key.kind);
    if !checked {
        return Arc::clone(world);
    }
    let previewed = Engine::beside(world).apply([(object.key.clone(), Some(Arc::clone(object)))]).world;
    note_delegates(previewed, object)
}

// So that no index of a list is told that the missing routes of delegates have shifted.
fn note_delegates(mut world: Arc<World>, object: &Object) -> Arc<World> {
    let Spec::VirtualService(spec) = &object.spec else { return world };
    let delegates = istio::delegates(spec, &object.key.namespace);
    let key = (object.key.namespace.clone(), object.key.name.clone());
    let Some(routes) = world.routes.get(&key).filter(|_| !delegates.is_empty()) else { return world };
    let mut routes = (**routes).clone();
    routes.merged = vec![Origin { object: object.key.clone(), generation: object.metadata.generation }];
    Arc::make_mut(&mut world).routes.insert(key, Arc::new(routes));
    world
}

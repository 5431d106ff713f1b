//! The resources that say whom proxies trust: the same for all of them, whoever they are.

use std::sync::Arc;

use imbl::OrdMap;

use crate::{
    mesh::{trust::Trust, world::World},
    translate::trust,
    xds::{encode, per_type::PerType, resource::Resource, resource_type::ResourceType, view::Layer},
};

/// The resources of the trust of a world.
#[derive(Default)]
pub(super) struct TrustLayers {
    trust: Arc<Trust>,
    /// The secret that peers are verified with.
    secrets: Layer,
    /// What Istio's agents are told. They are told nothing too, as they wait for an answer.
    proxy_config: Layer,
}

impl TrustLayers {
    /// Brings the resources up to a new world.
    pub(super) fn update(&mut self, world: &World) {
        if Arc::ptr_eq(&self.trust, &world.trust) {
            return;
        }
        let Trust { verified, everywhere, .. } = &*world.trust;
        if *verified != self.trust.verified {
            self.secrets = layer(verified.as_ref().map(|verified| encode::secret(&trust::bundle(verified), Vec::new())));
        }
        if *everywhere != self.trust.everywhere || self.proxy_config.is_empty() {
            self.proxy_config = layer(Some(encode::proxy_config(&trust::proxy_config(&world.trust))));
        }
        self.trust = Arc::clone(&world.trust);
    }

    /// Adds the resources to the layers of a view.
    pub(super) fn add_to(&self, layers: &mut PerType<Vec<Layer>>) {
        layers[ResourceType::Secret].push(Arc::clone(&self.secrets));
        layers[ResourceType::ProxyConfig] = vec![Arc::clone(&self.proxy_config)];
    }
}

fn layer(resource: Option<Resource>) -> Layer {
    Arc::new(resource.map(|resource| (resource.name.clone(), Arc::new(resource))).into_iter().collect::<OrdMap<_, _>>())
}

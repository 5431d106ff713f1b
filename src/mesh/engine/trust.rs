//! Whom proxies trust: from MeshConfig, and from the bundles that were fetched or are ours.

use std::{collections::BTreeMap, sync::Arc};

use super::Engine;
use crate::{
    api::{Id, Kind, trust_bundle::TrustBundle},
    mesh::{trust::Trust, world::World},
    visits::{Visit, Visited},
};

impl Engine {
    /// Derives whom proxies trust, when a bundle or a mesh-wide setting differs.
    pub(super) fn derive_trust(&self, world: &mut World, changed: &[Id]) {
        let concerned = |id: &Id| matches!(id.kind(), Kind::TrustBundle | Kind::MeshConfig);
        if !changed.iter().any(concerned) {
            return;
        }
        let bundles = self.store.all_of(Kind::TrustBundle).visiting(Visited::Object);
        let bundles: BTreeMap<_, &TrustBundle> =
            bundles.filter_map(|object| Some((object.key.name.clone(), &**object.content::<TrustBundle>()?))).collect();
        let origin = self.store.all_of(Kind::MeshConfig).next().map(|object| &object.key);
        let trust = Trust::of(&world.mesh, &bundles, origin);
        if trust != *world.trust {
            world.trust = Arc::new(trust);
        }
    }
}

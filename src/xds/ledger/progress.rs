//! How far proxies are with one object: views, which proxies share, joined with what each proxy has otherwise.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use super::row::Row;
use crate::{
    mesh::model::ObjectKey,
    peer_text::PeerText,
    xds::{
        resource::Resource,
        resource_type::ResourceType,
        view::{Layer, View},
    },
};

/// How far the connected proxies are with what is made of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many proxies are to have something that is made of it.
    pub proxies: usize,
    /// How many of them have acknowledged all that is made of it, by the object's generation. A proxy counts with the
    /// oldest generation that it has; one that lacks something does not count.
    pub acknowledged: BTreeMap<i64, usize>,
    /// The proxies that refuse something that is made of it, with what they say.
    pub refused_by: BTreeMap<SmolStr, PeerText>,
}

/// Adds up the rows. Each distinct layer is searched for the object once, however many proxies have it.
pub(super) struct Join<'a> {
    object: &'a ObjectKey,
    /// What is made of the object, by the layer that has it. The layers are kept so that none takes another's address.
    found: FxHashMap<*const (), Found>,
    progress: Progress,
}

/// A layer, and what of it is made of the object.
type Found = (Layer, Arc<[Arc<Resource>]>);

impl<'a> Join<'a> {
    pub(super) fn new(object: &'a ObjectKey) -> Self {
        Self { object, found: FxHashMap::default(), progress: Progress::default() }
    }

    /// Adds a proxy, unless it has not proven who it is.
    pub(super) fn add(&mut self, row: &Row) {
        if !row.status.proven {
            return;
        }
        let mut acknowledged = None;
        let mut is_concerned = false;
        for kind in ResourceType::in_views() {
            for wanted in self.resources(&row.view, kind) {
                let generation = self.acknowledged(row, kind, &wanted.name);
                acknowledged = if is_concerned { acknowledged.min(generation) } else { generation };
                is_concerned = true;
            }
        }
        self.progress.proxies += usize::from(is_concerned);
        if let Some(generation) = acknowledged {
            *self.progress.acknowledged.entry(generation).or_default() += 1;
        }
        let mut refused = row.refused.values().flat_map(|refused| refused.iter());
        if let Some(refused) = refused.find(|refused| generation_of(&refused.resource, self.object).is_some()) {
            self.progress.refused_by.insert(row.status.id.clone(), refused.error.clone());
        }
    }

    pub(super) fn finish(self) -> Progress {
        self.progress
    }

    /// Returns the generation of the object in what a proxy has acknowledged under a name. `None` where it lacks or
    /// refuses what is made of it.
    fn acknowledged(&self, row: &Row, kind: ResourceType, name: &SmolStr) -> Option<i64> {
        // Of a table that is refused in part, other objects' parts are there.
        let refuses = |refused: &Resource| refused.name == *name && generation_of(refused, self.object).is_some();
        if row.refused[kind].iter().any(|refused| refuses(&refused.resource)) {
            return None;
        }
        let ahead = if row.ahead.is_empty() { None } else { row.ahead.get(&(kind, name.clone())) };
        let resource = ahead.or_else(|| row.completed[kind].get(kind, name))?;
        generation_of(resource, self.object)
    }

    fn resources(&mut self, view: &View, kind: ResourceType) -> Vec<Arc<Resource>> {
        view.layers(kind).iter().flat_map(|layer| self.found_in(layer).to_vec()).collect()
    }

    fn found_in(&mut self, layer: &Layer) -> Arc<[Arc<Resource>]> {
        let object = self.object;
        let search = || layer.values().filter(|resource| generation_of(resource, object).is_some()).cloned().collect();
        let address = Arc::as_ptr(layer).cast::<()>();
        let (_, found) = self.found.entry(address).or_insert_with(|| (Arc::clone(layer), search()));
        Arc::clone(found)
    }
}

fn generation_of(resource: &Resource, object: &ObjectKey) -> Option<i64> {
    resource.origins.iter().filter(|origin| origin.object == *object).map(|origin| origin.generation).min()
}

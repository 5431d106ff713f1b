//! Clusters, listeners and extension configurations that EnvoyFilters add. They stand beside all others of a proxy, which have their names first.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{
    key::{ListenersKey, SharedKey},
    patching::Patching,
    per_proxy::PerProxyInputs,
    resource_cache::ResourceCache,
};
use crate::{
    mesh::{
        by_ptr::ByPtr,
        envoy_filter::{ApplyTo, Patch},
        policy::envoy_filter::Patches,
    },
    xds::{
        encode::{
            checked::Encoded,
            patch_report::{PatchFault, PatchReport},
            patched::{Capabilities, part},
            standing_in::or_before,
        },
        per_type::PerType,
        resource_type::ResourceType,
        view::Layer,
    },
};

/// What proxies have in common that are given the same in addition: all the rest, with which it may collide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddedKey {
    pub(super) patching: Patching,
    pub(super) shared: SharedKey,
    pub(super) listeners: Option<ListenersKey>,
    pub(super) own: Arc<PerProxyInputs>,
}

/// The resources that are added.
#[derive(Debug, Default)]
pub(super) struct AddedResources {
    made: Vec<Added>,
    /// The places in `made` of those whose names were free; `None`: nobody looked yet.
    placed: Option<BTreeSet<usize>>,
    layers: PerType<Layer>,
    /// What came of the patches, by type.
    reports: Vec<PatchReport>,
    collisions: Vec<PatchReport>,
}

/// A resource that a patch adds, or would.
#[derive(Debug)]
pub(super) struct Added {
    kind: ResourceType,
    patch: ByPtr<Patch>,
    encoded: Encoded,
}

impl AddedResources {
    pub(super) fn new(patching: &Patching, cache: &mut ResourceCache) -> Self {
        let mut resources = Self::default();
        for kind in [ResourceType::Cluster, ResourceType::Listener, ResourceType::ExtensionConfig] {
            let (made, report) = made(kind, &patching.patches, &patching.having, cache);
            resources.made.extend(made);
            resources.reports.push(report);
        }
        resources
    }

    /// Finds out which of the names are free now. What others have is theirs.
    pub(super) fn place(&mut self, is_taken: impl Fn(ResourceType, &str) -> bool) {
        let (mut placed, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (at, Added { kind, encoded, .. }) in self.made.iter().enumerate() {
            let name = &encoded.name;
            if encoded.resource.is_some() && !is_taken(*kind, name) && names.insert((*kind, name.clone())) {
                placed.insert(at);
            }
        }
        if self.placed.as_ref() == Some(&placed) {
            return;
        }
        self.layers = PerType::from_fn(|of| {
            Arc::new(layer(self.made.iter().enumerate().filter(|(at, added)| added.kind == of && placed.contains(at))))
        });
        let colliding = self.made.iter().enumerate().filter(|(at, added)| added.encoded.resource.is_some() && !placed.contains(at));
        self.collisions = colliding.map(|(_, added)| added.collision()).collect();
        self.placed = Some(placed);
    }

    /// Returns the resources of one type.
    pub(super) fn layer(&self, kind: ResourceType) -> &Layer {
        &self.layers[kind]
    }

    /// Returns what came of the patches.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PatchReport> {
        self.reports.iter().chain(&self.collisions)
    }
}

/// Encodes the resources of one type that patches add, or what their objects added before.
pub(super) fn made(kind: ResourceType, patches: &Patches, having: &Capabilities, cache: &mut ResourceCache) -> (Vec<Added>, PatchReport) {
    let of_kind = patches.that(|patch| type_of(patch.apply_to) == Some(kind));
    let mut encode = |patches: &Patches| {
        let mut report = PatchReport::default();
        let made = patches.as_slice().iter().map(|patch| {
            let encoded = cache.added(kind, patch, having);
            encoded.report.iter().for_each(|of_one| report.absorb(of_one));
            Added { kind, patch: patch.clone(), encoded }
        });
        let made: Vec<Added> = made.collect();
        (made, report)
    };
    let newest = encode(&of_kind);
    or_before(newest, &of_kind, encode)
}

fn type_of(apply_to: ApplyTo) -> Option<ResourceType> {
    match apply_to {
        ApplyTo::Cluster => Some(ResourceType::Cluster),
        ApplyTo::Listener => Some(ResourceType::Listener),
        ApplyTo::ExtensionConfig => Some(ResourceType::ExtensionConfig),
        _ => None,
    }
}

impl Added {
    /// Returns the name, if the resource can be sent.
    pub(super) fn name(&self) -> Option<SmolStr> {
        self.encoded.resource.as_ref().map(|resource| resource.name.clone())
    }

    fn collision(&self) -> PatchReport {
        let part = part(self.kind, &self.encoded.name);
        let what = "there is another one of this name".to_owned();
        PatchReport { faults: vec![PatchFault { patch: self.patch.clone(), part, what, instead: None }], ..PatchReport::default() }
    }
}

fn layer<'a>(added: impl Iterator<Item = (usize, &'a Added)>) -> OrdMap<SmolStr, Arc<crate::xds::resource::Resource>> {
    added.filter_map(|(_, added)| added.encoded.resource.clone()).map(|resource| (resource.name.clone(), resource)).collect()
}

//! A layer that is put together from units: each owner (a service, a port, a route table) contributes some resources,
//! and its contribution is replaced without regard to the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use imbl::OrdMap;
use smol_str::SmolStr;

use crate::{
    api::Diagnostic,
    xds::{
        encode::{Part, Unfit, checked::Encoded, patch_report::PatchReport},
        view::Layer,
    },
};

/// A layer and who contributed what to it.
#[derive(Debug)]
pub(super) struct CachedUnits<O> {
    owners: BTreeMap<O, Vec<SmolStr>>,
    layer: Layer,
    changes: Changes,
    /// What Envoy would refuse, by owner; no entry is empty.
    unfit: BTreeMap<O, Vec<Unsent>>,
    /// What came of patches, by owner; no entry is empty.
    reports: BTreeMap<O, Vec<Arc<PatchReport>>>,
}

/// What is not sent as it was made.
#[derive(Debug)]
struct Unsent {
    unfit: Arc<Unfit>,
    /// Whether what there was before stays.
    kept: bool,
}

/// Names of the resources that differ since they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Made or made again, and still there.
    pub(super) made: BTreeSet<SmolStr>,
    /// Appeared or vanished.
    pub(super) named: BTreeSet<SmolStr>,
}

impl<O> Default for CachedUnits<O> {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            layer: Arc::new(OrdMap::new()),
            changes: Changes::default(),
            unfit: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }
}

impl<O: Ord + Clone> CachedUnits<O> {
    /// Returns the layer as it stands: the same `Arc` as before when nothing changed.
    pub(super) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Replaces what `owner` contributes. A resource that equals the one before is not touched; one that cannot be sent leaves
    /// the one before where it is.
    pub(super) fn replace(&mut self, owner: &O, made: Vec<Encoded>) {
        let before = self.owners.remove(owner).unwrap_or_default();
        let stays: HashSet<&SmolStr> = made.iter().filter(|encoded| !encoded.is_removed()).map(|encoded| &encoded.name).collect();
        let (kept, gone): (HashSet<SmolStr>, HashSet<SmolStr>) = before.into_iter().partition(|name| stays.contains(name));
        self.set_unfit(owner, &made, &kept);
        self.set_reports(owner, &made);
        for name in &gone {
            Arc::make_mut(&mut self.layer).remove(name);
            self.changes.made.remove(name);
            self.changes.named.insert(name.clone());
        }
        let mut names = Vec::with_capacity(made.len());
        for encoded in made {
            let Some(resource) = encoded.resource else {
                names.extend(kept.contains(&encoded.name).then_some(encoded.name));
                continue;
            };
            let known = self.layer.get(&resource.name);
            if known.is_none_or(|known| *known != resource) {
                if known.is_none() {
                    self.changes.named.insert(resource.name.clone());
                }
                self.changes.made.insert(resource.name.clone());
                Arc::make_mut(&mut self.layer).insert(resource.name.clone(), resource);
            }
            names.push(encoded.name);
        }
        if !names.is_empty() {
            self.owners.insert(owner.clone(), names);
        }
    }

    /// Returns what Envoy would refuse of the objects.
    pub(super) fn findings(&self) -> impl Iterator<Item = Diagnostic> {
        self.unfit.values().flatten().flat_map(|unsent| unsent.unfit.findings(unsent.kept))
    }

    /// Returns the clusters that cannot be sent, and of which there is nothing from before.
    pub(super) fn clusters_left_out(&self) -> BTreeSet<&SmolStr> {
        let gone = self.unfit.values().flatten().filter(|unsent| !unsent.kept);
        gone.filter_map(|unsent| if let Part::Cluster(name) = &unsent.unfit.part { Some(name) } else { None }).collect()
    }

    /// Returns what came of patches.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PatchReport> {
        self.reports.values().flatten().map(Arc::as_ref)
    }

    fn set_reports(&mut self, owner: &O, made: &[Encoded]) {
        let reports: Vec<_> = made.iter().filter_map(|encoded| encoded.report.clone()).collect();
        match reports.is_empty() {
            true => drop(self.reports.remove(owner)),
            false => drop(self.reports.insert(owner.clone(), reports)),
        }
    }

    fn set_unfit(&mut self, owner: &O, made: &[Encoded], before: &HashSet<SmolStr>) {
        let unsent = made.iter().flat_map(|encoded| {
            let kept = encoded.resource.is_none() && before.contains(&encoded.name);
            encoded.unfit.iter().map(move |unfit| Unsent { unfit: Arc::clone(unfit), kept })
        });
        let unsent: Vec<Unsent> = unsent.collect();
        match unsent.is_empty() {
            true => drop(self.unfit.remove(owner)),
            false => drop(self.unfit.insert(owner.clone(), unsent)),
        }
    }

    /// Returns what changed since this was last asked.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Lets go of all owners that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&O) -> bool) {
        let gone: Vec<O> = self.owners.keys().filter(|owner| !keep(owner)).cloned().collect();
        for owner in gone {
            self.replace(&owner, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{
        encode::constraints::Violation,
        resource::{ContentHash, Resource},
        resource_type::ResourceType,
    };

    fn resource(name: &str, version: u64) -> Encoded {
        let resource = Resource {
            kind: ResourceType::Cluster,
            name: name.into(),
            version: ContentHash(version),
            body: Default::default(),
            references: Arc::default(),
            origins: Arc::new([]),
            virtual_hosts: Arc::default(),
        };
        Encoded { name: name.into(), resource: Some(Arc::new(resource)), unfit: Arc::default(), report: None }
    }

    fn unfit(name: &str) -> Encoded {
        let violation = Violation { path: Vec::new(), what: "is wrong".to_owned() };
        let unfit = Unfit { part: Part::Cluster(name.into()), violation, origins: Arc::default(), is_kept: false };
        Encoded { name: name.into(), resource: None, unfit: Arc::new([Arc::new(unfit)]), report: None }
    }

    fn versions(units: &CachedUnits<&'static str>) -> Vec<(String, u64)> {
        units.layer().iter().map(|(name, resource)| (name.to_string(), resource.version.0)).collect()
    }

    fn said(units: &CachedUnits<&'static str>) -> Vec<String> {
        units.findings().map(|finding| finding.message).collect()
    }

    #[test]
    fn an_owner_replaces_only_its_own() {
        let mut units = CachedUnits::default();
        units.replace(&"a", vec![resource("a1", 1), resource("a2", 1)]);
        units.replace(&"b", vec![resource("b1", 1)]);
        units.replace(&"a", vec![resource("a2", 2)]);
        assert_eq!(versions(&units), [("a2".to_owned(), 2), ("b1".to_owned(), 1)]);
    }

    #[test]
    fn nothing_changed_is_the_same_layer() {
        let mut units = CachedUnits::default();
        units.replace(&1, vec![resource("x", 1)]);
        let before = Arc::clone(units.layer());
        units.replace(&1, vec![resource("x", 1)]);
        assert!(Arc::ptr_eq(&before, units.layer()));
        units.retain(|_| false);
        assert!(units.layer().is_empty());
    }

    #[test]
    fn what_cannot_be_sent_leaves_what_there_was() {
        let mut units = CachedUnits::default();
        units.replace(&"a", vec![unfit("a1"), resource("a2", 1)]);
        assert_eq!(versions(&units), [("a2".to_owned(), 1)]);
        assert!(said(&units)[0].contains("there is no such cluster"), "{:?}", said(&units));

        units.replace(&"a", vec![resource("a1", 2), unfit("a2")]);
        assert_eq!(versions(&units), [("a1".to_owned(), 2), ("a2".to_owned(), 1)]);
        assert!(said(&units)[0].contains("keep what they had before"), "{:?}", said(&units));

        // Once more, and it still is the owner's: it goes when the owner goes.
        units.replace(&"a", vec![unfit("a2")]);
        assert_eq!(versions(&units), [("a2".to_owned(), 1)]);
        units.replace(&"a", Vec::new());
        assert!(versions(&units).is_empty() && said(&units).is_empty());
    }
}

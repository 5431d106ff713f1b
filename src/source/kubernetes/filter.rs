//! Decides which objects are read: those of our revision (contract §8.1), in the namespaces that MeshConfig's
//! `discoverySelectors` select (contract §7).

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;
use tokio::sync::watch;

use super::kinds::WatchedResource;
use crate::api::{Kind, Object, Spec, label_selector::LabelSelector};

/// All objects of a collection; `None` if it was not listed yet.
pub(super) type Snapshot = Option<Vec<Arc<Object>>>;

/// Which objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectFilter {
    /// Our revision, `default` if it has no name.
    revision: SmolStr,
    namespaces: Namespaces,
}

/// The namespaces whose objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Namespaces {
    /// MeshConfig or the namespaces were not read yet.
    Unknown,
    All,
    These(BTreeSet<SmolStr>),
}

impl ObjectFilter {
    /// Makes a filter for a revision, empty for `default`, that does not know the namespaces yet.
    pub(super) fn new(revision: &str) -> Self {
        Self { revision: if revision.is_empty() { "default".into() } else { revision.into() }, namespaces: Namespaces::Unknown }
    }

    /// Returns whether the filter knows which namespaces are read.
    pub(super) fn knows_namespaces(&self) -> bool {
        self.namespaces != Namespaces::Unknown
    }

    /// Returns whether the object is read.
    pub(super) fn includes(&self, resource: &WatchedResource, object: &Object) -> bool {
        let other = |revision: &SmolStr| *revision != self.revision;
        let of_other = resource.custom && object.metadata.labels.get("istio.io/rev").is_some_and(other);
        let outside = match &self.namespaces {
            Namespaces::These(names) if is_limited_to_namespaces(resource) => !names.contains(&object.key.namespace),
            _ => false,
        };
        !of_other && !outside
    }

    /// Returns the namespaces that are read now and were not read `before`; `None` if that may be any.
    pub(super) fn new_namespaces(&self, before: &Self) -> Option<Vec<SmolStr>> {
        match (&before.namespaces, &self.namespaces) {
            (Namespaces::All, _) => Some(Vec::new()),
            (Namespaces::These(before), Namespaces::These(now)) => Some(now.difference(before).cloned().collect()),
            _ => None,
        }
    }
}

/// Returns whether objects of this kind are read only in selected namespaces.
pub(super) fn is_limited_to_namespaces(resource: &WatchedResource) -> bool {
    resource.namespaced && resource.kind != Kind::MeshConfig
}

/// Updates the filter whenever MeshConfig or the labels of namespaces change, until all its receivers are dropped.
/// Namespace `own` is always read.
pub(super) async fn keep_updated(
    filter: watch::Sender<Arc<ObjectFilter>>,
    mut mesh_config: watch::Receiver<Snapshot>,
    mut namespaces: watch::Receiver<Snapshot>,
    own: SmolStr,
) {
    loop {
        let now = selected(&mesh_config.borrow_and_update(), &namespaces.borrow_and_update(), &own);
        if now != Namespaces::Unknown {
            filter.send_if_modified(|filter| {
                let changed = filter.namespaces != now;
                if changed {
                    *filter = Arc::new(ObjectFilter { revision: filter.revision.clone(), namespaces: now });
                }
                changed
            });
        }
        let changed = tokio::select! {
            changed = mesh_config.changed() => changed,
            changed = namespaces.changed() => changed,
            () = filter.closed() => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn selected(mesh_config: &Snapshot, namespaces: &Snapshot, own: &SmolStr) -> Namespaces {
    let Some(mesh_config) = mesh_config else { return Namespaces::Unknown };
    let mesh = mesh_config.iter().find_map(|object| match &object.spec {
        Spec::MeshConfig(mesh) => Some(mesh),
        _ => None,
    });
    let selectors: &[LabelSelector] = mesh.map_or(&[], |mesh| &mesh.discovery_selectors);
    if selectors.is_empty() {
        return Namespaces::All;
    }
    let Some(namespaces) = namespaces else { return Namespaces::Unknown };
    let matching = namespaces.iter().filter(|object| selectors.iter().any(|selector| selector.selects(&object.metadata.labels)));
    let always = [Some(own.clone()), mesh.map(|mesh| mesh.root_namespace.clone())];
    Namespaces::These(matching.map(|object| object.key.name.clone()).chain(always.into_iter().flatten()).collect())
}

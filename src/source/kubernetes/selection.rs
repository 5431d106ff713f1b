//! Which objects are ours: those of our revision (contract §8.1), in namespaces that MeshConfig's `discoverySelectors`
//! select (contract §7).

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;
use tokio::sync::watch;

use super::kinds::Resource;
use crate::api::{Kind, Object, Spec, label_selector::LabelSelector};

/// All objects of a collection; `None`: it was not listed yet.
pub(super) type Objects = Option<Vec<Arc<Object>>>;

/// Says which objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Our revision, `default` when it has no name.
    revision: SmolStr,
    namespaces: Namespaces,
}

/// Which namespaces are read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Namespaces {
    /// That is not known yet.
    Unknown,
    All,
    These(BTreeSet<SmolStr>),
}

impl Selection {
    /// For a revision, which is `default` when it is empty. Which namespaces are read is not known yet.
    pub(super) fn new(revision: &str) -> Self {
        Self { revision: if revision.is_empty() { "default".into() } else { revision.into() }, namespaces: Namespaces::Unknown }
    }

    /// Whether it is known which namespaces are read.
    pub(super) fn is_known(&self) -> bool {
        self.namespaces != Namespaces::Unknown
    }

    /// Whether the object is read.
    pub(super) fn reads(&self, resource: &Resource, object: &Object) -> bool {
        let other = |revision: &SmolStr| *revision != self.revision;
        let of_other = resource.custom && object.metadata.labels.get("istio.io/rev").is_some_and(other);
        let outside = match &self.namespaces {
            Namespaces::These(names) if is_selected(resource) => !names.contains(&object.key.namespace),
            _ => false,
        };
        !of_other && !outside
    }

    /// Namespaces that are read now and were not `before`; `None`: all may be new.
    pub(super) fn new_namespaces(&self, before: &Self) -> Option<Vec<SmolStr>> {
        match (&before.namespaces, &self.namespaces) {
            (Namespaces::All, _) => Some(Vec::new()),
            (Namespaces::These(before), Namespaces::These(now)) => Some(now.difference(before).cloned().collect()),
            _ => None,
        }
    }
}

/// Whether objects of this kind are read only in selected namespaces.
pub(super) fn is_selected(resource: &Resource) -> bool {
    resource.namespaced && resource.kind != Kind::MeshConfig
}

/// Keeps the selection as MeshConfig and the namespaces' labels say. `own` is read in any case.
pub(super) async fn select(
    selecting: watch::Sender<Arc<Selection>>,
    mut mesh_config: watch::Receiver<Objects>,
    mut namespaces: watch::Receiver<Objects>,
    own: SmolStr,
) {
    loop {
        let now = selected(&mesh_config.borrow_and_update(), &namespaces.borrow_and_update(), &own);
        if now != Namespaces::Unknown {
            selecting.send_if_modified(|selection| {
                let changed = selection.namespaces != now;
                if changed {
                    *selection = Arc::new(Selection { revision: selection.revision.clone(), namespaces: now });
                }
                changed
            });
        }
        let changed = tokio::select! {
            changed = mesh_config.changed() => changed,
            changed = namespaces.changed() => changed,
            () = selecting.closed() => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn selected(mesh_config: &Objects, namespaces: &Objects, own: &SmolStr) -> Namespaces {
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

//! Which objects are ours: those of our revision (contract §8.1).

use smol_str::SmolStr;

use super::kinds::Resource;
use crate::api::Object;

/// Says which objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Our revision, `default` when it has no name.
    revision: SmolStr,
}

impl Selection {
    /// Takes all objects of our revision, which is `default` when it is empty.
    pub(super) fn new(revision: &str) -> Self {
        Self { revision: if revision.is_empty() { "default".into() } else { revision.into() } }
    }

    /// Whether the object is read.
    pub(super) fn reads(&self, resource: &Resource, object: &Object) -> bool {
        let other = |revision: &SmolStr| *revision != self.revision;
        !(resource.custom && object.metadata.labels.get("istio.io/rev").is_some_and(other))
    }
}

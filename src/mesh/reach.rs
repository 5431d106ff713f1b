//! The workloads that a changed policy is or was for: only these are looked at again.

use smol_str::SmolStr;

use super::{
    configured::Configured,
    model::Labels,
    policy_table::{Attachment, Policy},
};
use crate::api::istio::TargetRef;

/// Workloads of a namespace, or of the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// `None`: all namespaces.
    namespace: Option<SmolStr>,
    /// Labels that they have; empty: whatever labels.
    selector: Labels,
    /// What they stand for; empty: whatever it is.
    targets: Vec<TargetRef>,
}

impl Reach {
    /// Returns what an object is for. `root` is the root namespace.
    pub(in crate::mesh) fn of<T: Policy>(object: &Configured<T>, root: &str) -> Self {
        let namespace = object.is_for_one_namespace(root).then(|| object.origin.object.namespace.clone());
        let (selector, targets) = match object.spec.attachment() {
            Attachment::Namespace => (Labels::new(), Vec::new()),
            Attachment::Selector(labels) => (labels.clone(), Vec::new()),
            Attachment::Targets(targets) => (Labels::new(), targets.to_vec()),
        };
        Self { namespace, selector, targets }
    }

    /// Returns all workloads.
    pub(in crate::mesh) fn everywhere() -> Self {
        Self { namespace: None, selector: Labels::new(), targets: Vec::new() }
    }

    /// Returns all workloads of a namespace.
    pub(in crate::mesh) fn within(namespace: &SmolStr) -> Self {
        Self { namespace: Some(namespace.clone()), ..Self::everywhere() }
    }

    /// Returns the workloads of all namespaces that have these labels; all of them, if there are none.
    pub(in crate::mesh) fn selected(labels: &Labels) -> Self {
        Self { selector: labels.clone(), ..Self::everywhere() }
    }

    /// Returns whether a workload is among them.
    pub fn covers(&self, namespace: &str, labels: &Labels) -> bool {
        let attachment = match self.targets.is_empty() {
            true => Attachment::of_selector(Some(&self.selector)),
            false => Attachment::Targets(&self.targets),
        };
        self.namespace.as_ref().is_none_or(|own| own == namespace) && attachment.covers(labels)
    }
}

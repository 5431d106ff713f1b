//! Reads what a policy is for.

use super::{
    fields::{Fields, Node, Read},
    traffic_policy::match_labels,
};
use crate::api::istio::{PolicyTarget, TargetRef};

impl PolicyTarget {
    /// Reads the three fields from those of a policy.
    pub(super) fn of(fields: &Fields<'_>) -> Self {
        let selector = fields.with("selector", match_labels);
        let single: Option<TargetRef> = fields.opt("targetRef");
        let several: Vec<TargetRef> = fields.get("targetRefs");
        let given = [fields.has("selector"), fields.has("targetRef"), !several.is_empty()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            fields.error("only one of selector, targetRef and targetRefs may be set");
        }
        Self { selector, single: single.is_some(), refs: single.map_or(several, |single| vec![single]) }
    }
}

impl Read for TargetRef {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            group: fields.get("group"),
            kind: fields.get("kind"),
            name: fields.get("name"),
            namespace: fields.get("namespace"),
        })
    }
}

//! What a policy is for: `selector`, `targetRef` and `targetRefs`, which several kinds have.

use smol_str::SmolStr;

use crate::api::Labels;

/// What a policy is for, of its namespace; neither: all workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyTarget {
    /// `selector.matchLabels`
    pub selector: Option<Labels>,
    /// `targetRefs`, or `targetRef` as the only one.
    pub refs: Vec<TargetRef>,
    /// Whether it is written as `targetRef`.
    pub single: bool,
}

/// An entry of `targetRefs`: an object of the policy's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetRef {
    /// Its API group; empty for the core group.
    pub group: SmolStr,
    /// Its kind.
    pub kind: SmolStr,
    /// Its name.
    pub name: SmolStr,
    /// Its namespace, which must be empty.
    pub namespace: SmolStr,
}

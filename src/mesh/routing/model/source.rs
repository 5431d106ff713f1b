//! Where rules were written, and their order.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::mesh::model::{Origin, Precedence};

/// Where a rule, or a part of it, was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSource {
    /// The object; for a delegate's rule the delegate.
    pub origin: Arc<Origin>,
    /// The path of the field in it, such as `spec.http[2]`.
    pub field: SmolStr,
}

/// The order of rules that meet at one host: by their objects, then as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RulePrecedence {
    /// Age of the object; for a delegate's rule that of the root, in whose list it stands.
    pub object: Arc<Precedence>,
    /// The position in the object's list.
    pub position: usize,
}

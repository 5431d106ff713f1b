//! Who may see an object.

use std::sync::Arc;

use smol_str::SmolStr;

/// Who may see an object (`exportTo`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Visibility {
    /// `*`
    Public,
    /// `~`: nobody
    None,
    /// The namespaces named, with `.` already replaced by the object's own.
    Namespaces(Arc<[SmolStr]>),
}

impl Visibility {
    /// Returns whether something in `namespace` may see it.
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::None => false,
            Self::Namespaces(names) => names.iter().any(|name| name == namespace),
        }
    }
}

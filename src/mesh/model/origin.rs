//! The object that a value came from, and which of two objects wins.

use smol_str::SmolStr;

use crate::api::{Object, ObjectKey};

/// The object, with its generation, that a value came from. Everything has an origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The object.
    pub object: ObjectKey,
    /// Its `metadata.generation`; 0 if unknown.
    pub generation: i64,
}

/// Istio's order between objects of one kind: by age, then by name, then by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Precedence {
    /// `creationTimestamp`, Unix seconds.
    pub created: i64,
    /// `metadata.name`
    pub name: SmolStr,
    /// `metadata.namespace`
    pub namespace: SmolStr,
}

/// `(namespace, name)` of a configuration object.
pub type NamedKey = (SmolStr, SmolStr);

impl Origin {
    /// Returns the origin of what is made from `object`.
    pub fn of(object: &Object) -> Self {
        Self { object: object.key.clone(), generation: object.metadata.generation }
    }

    /// Returns ` (generation 3)`; nothing where it is unknown.
    pub fn in_brackets(&self) -> String {
        if self.generation == 0 { String::new() } else { format!(" (generation {})", self.generation) }
    }
}

impl Precedence {
    /// Returns where `object` stands among others of its kind.
    pub fn of(object: &Object) -> Self {
        Self { created: object.metadata.created, name: object.key.name.clone(), namespace: object.key.namespace.clone() }
    }
}

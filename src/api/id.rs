//! What identifies an object within the mesh, over all clusters.

use smol_str::SmolStr;

use super::{kind::Kind, object::ObjectKey};

/// Identifies an object: by name alone if it is configuration, by cluster and name if it belongs to one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// An object of a kind that is local.
    Local(LocalId),
    /// An object of any other kind.
    Config(ConfigId),
}

/// Identifies a configuration object. Clusters that have one of the same name mean one object: the content in the
/// first cluster, by name, counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConfigId {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: SmolStr,
    /// The name.
    pub name: SmolStr,
}

/// Identifies an object that belongs to one cluster: Pod, Node, Service, EndpointSlice, Namespace. Another cluster may
/// have another object of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalId(ObjectKey);

impl Id {
    /// Returns the kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Local(LocalId(key)) => key.kind,
            Self::Config(id) => id.kind,
        }
    }

    /// Returns whether the object read under that key is (one of the contents of) this one.
    pub fn is_of(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Local(LocalId(own)) => own == key,
            Self::Config(id) => (id.kind, &id.namespace, &id.name) == (key.kind, &key.namespace, &key.name),
        }
    }
}

impl From<&ObjectKey> for Id {
    fn from(key: &ObjectKey) -> Self {
        match key.kind.is_local() {
            true => Self::Local(LocalId(key.clone())),
            false => Self::Config(ConfigId::new(key.kind, &key.namespace, &key.name)),
        }
    }
}

impl ConfigId {
    /// Identifies an object of a kind that is not local.
    pub fn new(kind: Kind, namespace: &SmolStr, name: &SmolStr) -> Self {
        debug_assert!(!kind.is_local(), "{kind} is local");
        Self { kind, namespace: namespace.clone(), name: name.clone() }
    }
}

impl LocalId {
    /// Identifies an object of a kind that is local.
    pub fn new(cluster: &SmolStr, kind: Kind, namespace: &SmolStr, name: &SmolStr) -> Self {
        debug_assert!(kind.is_local(), "{kind} is not local");
        Self(ObjectKey { kind, namespace: namespace.clone(), name: name.clone(), cluster: cluster.clone() })
    }

    /// Returns the key that the object was read under: it is the only one.
    pub fn key(&self) -> &ObjectKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cluster: &str, kind: Kind) -> ObjectKey {
        ObjectKey { cluster: cluster.into(), kind, namespace: "shop".into(), name: "a".into() }
    }

    #[test]
    fn configuration_is_one_over_clusters_and_what_is_local_is_not() {
        for kind in Kind::ALL {
            let [here, there] = ["here", "there"].map(|cluster| Id::from(&key(cluster, kind)));
            assert_eq!(here == there, !kind.is_local(), "{kind}");
            assert_eq!(here.is_of(&key("there", kind)), !kind.is_local(), "{kind}");
            assert!(here.is_of(&key("here", kind)) && here.kind() == kind);
        }
    }
}

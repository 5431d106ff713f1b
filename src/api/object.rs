//! An object that a user wrote, of any kind that istiod-lite reads, under one key.

use std::{fmt, sync::Arc};

use smol_str::SmolStr;

use super::{istio, key_set, kind::Kind, kinds::kinds, kubernetes, label_selector::Labels, mesh_config, rate_limit_policy, trust_bundle};
use crate::peer_text::PeerText;

/// What names one object in all clusters: rule 12 of the architecture.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// What sort of object it is.
    pub kind: Kind,
    /// Empty for kinds that live outside namespaces.
    pub namespace: SmolStr,
    /// `metadata.name`
    pub name: SmolStr,
    /// The cluster that the object was read from; the folder is cluster `Kubernetes`. Last, so that the objects of one
    /// name stand together.
    pub cluster: SmolStr,
}

/// The parts of `ObjectMeta` that translation or diagnosis reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `metadata.labels`. Shared: pods of one ReplicaSet mostly have the same.
    pub labels: Arc<Labels>,
    /// `metadata.annotations`, shared likewise.
    pub annotations: Arc<Labels>,
    /// `metadata.creationTimestamp` in Unix seconds; 0 when absent. Istio's tie-break is by second.
    pub created: i64,
    /// `metadata.generation`; 0 when absent.
    pub generation: i64,
    /// `metadata.uid`; empty when absent.
    pub uid: SmolStr,
}

/// One object: its key, its metadata and its typed content.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Which object this is.
    pub key: ObjectKey,
    /// The API version it was written in without the group (`v1`, `v1beta1`, `v1alpha3`).
    pub version: SmolStr,
    /// What the user or the API server says about it.
    pub metadata: Arc<Metadata>,
    /// What it says.
    pub spec: Spec,
}

/// The typed content of the objects of one kind.
pub trait Content: Sized {
    /// The kind.
    const KIND: Kind;

    /// Returns the content, if it is of this kind.
    fn of(spec: &Spec) -> Option<&Arc<Self>>;
}

macro_rules! define_spec {
    ($(
        $(#[$doc:meta])*
        $kind:ident $(($content:ty))? { facts: $facts:expr, $(read: $read:ident,)? $(check: $check:ident,)? }
    )*) => {
        /// The typed content of an object. Kinds without any have nothing that is read but their metadata.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Spec {
            $($(#[$doc])* $kind $((Arc<$content>))?,)*
        }

        $($(
            impl Content for $content {
                const KIND: Kind = Kind::$kind;

                fn of(spec: &Spec) -> Option<&Arc<Self>> {
                    match spec {
                        Spec::$kind(content) => Some(content),
                        _ => None,
                    }
                }
            }
        )?)*
    };
}

kinds!(define_spec);

impl Object {
    /// Returns its content, if it is of that kind.
    pub fn content<T: Content>(&self) -> Option<&Arc<T>> {
        T::of(&self.spec)
    }
}

// `Kind/namespace/name`, the form in which messages name an object; with the group where a kind's text has it.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", PeerText::new(&self.namespace))?;
        }
        f.write_str(&PeerText::new(&self.name))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.cluster)
    }
}

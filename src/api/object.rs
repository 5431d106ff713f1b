//! An object that a user wrote, of any kind that istiod-lite reads, under one key.

use std::{collections::BTreeMap, fmt, sync::Arc};

use smol_str::SmolStr;

use super::{istio, kubernetes, mesh_config::MeshConfig};

/// Labels or annotations, sorted so that equal sets compare and print equally.
pub type Labels = BTreeMap<SmolStr, SmolStr>;

/// The kinds that istiod-lite reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 Namespace`
    Namespace,
    /// `v1 Node`
    Node,
    /// `v1 Pod`
    Pod,
    /// `v1 Service`
    Service,
    /// `discovery.k8s.io EndpointSlice`
    EndpointSlice,
    /// `networking.istio.io DestinationRule`
    DestinationRule,
    /// `networking.istio.io Gateway`
    Gateway,
    /// `networking.istio.io ServiceEntry`
    ServiceEntry,
    /// `networking.istio.io Sidecar`
    Sidecar,
    /// `networking.istio.io VirtualService`
    VirtualService,
    /// `networking.istio.io WorkloadEntry`
    WorkloadEntry,
    /// `security.istio.io PeerAuthentication`
    PeerAuthentication,
    /// The mesh-wide settings (`MeshConfig`), which come from a file or a ConfigMap's key.
    MeshConfig,
}

/// What names one object in all clusters: rule 12 of the architecture.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The cluster that the object was read from; the folder is cluster `Kubernetes`.
    pub cluster: SmolStr,
    /// What sort of object it is.
    pub kind: Kind,
    /// Empty for kinds that live outside namespaces.
    pub namespace: SmolStr,
    /// `metadata.name`
    pub name: SmolStr,
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

/// The typed content of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// A namespace has nothing but its metadata.
    Namespace,
    /// A node has nothing but its metadata (locality labels).
    Node,
    /// See [`kubernetes::Pod`].
    Pod(Arc<kubernetes::Pod>),
    /// See [`kubernetes::Service`].
    Service(Arc<kubernetes::Service>),
    /// See [`kubernetes::EndpointSlice`].
    EndpointSlice(Arc<kubernetes::EndpointSlice>),
    /// See [`istio::DestinationRule`].
    DestinationRule(Arc<istio::DestinationRule>),
    /// See [`istio::Gateway`].
    Gateway(Arc<istio::Gateway>),
    /// See [`istio::ServiceEntry`].
    ServiceEntry(Arc<istio::ServiceEntry>),
    /// See [`istio::Sidecar`].
    Sidecar(Arc<istio::Sidecar>),
    /// See [`istio::VirtualService`].
    VirtualService(Arc<istio::VirtualService>),
    /// See [`istio::WorkloadEntry`].
    WorkloadEntry(Arc<istio::WorkloadEntry>),
    /// See [`istio::PeerAuthentication`].
    PeerAuthentication(Arc<istio::PeerAuthentication>),
    /// See [`MeshConfig`].
    MeshConfig(Arc<MeshConfig>),
}

impl Kind {
    /// The name users write in `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
            Self::Sidecar => "Sidecar",
            Self::VirtualService => "VirtualService",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::MeshConfig => "MeshConfig",
        }
    }
}

// `Kind/namespace/name`, the form in which messages name an object.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind.as_str())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.cluster)
    }
}

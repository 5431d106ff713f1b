//! A workload: a pod or a WorkloadEntry.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::{Locality, LocatedLabels};
use crate::api::{Kind, Labels, ObjectKey};

/// A pod (or a WorkloadEntry) that may have a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The name of the pod or WorkloadEntry.
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// `metadata.annotations`
    pub annotations: Arc<Labels>,
    /// Its service account.
    pub service_account: SmolStr,
    /// All its addresses.
    pub ips: Arc<[IpAddr]>,
    /// The name of its node.
    pub node: SmolStr,
    /// From the node's labels or the pod's; mostly shared with the others on its node.
    pub locality: Arc<Locality>,
    /// `metadata.uid`
    pub uid: SmolStr,
    /// Named container ports: `(name, number)`.
    pub ports: Arc<[(SmolStr, u16)]>,
    /// The kind of the object it came from: Pod or WorkloadEntry.
    pub kind: Kind,
    /// The cluster of that object.
    pub cluster: SmolStr,
    /// `metadata.generation` of that object.
    pub generation: i64,
}

/// Identifies a [`Workload`]. Pods of one name in two clusters are two workloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// The namespace.
    pub namespace: SmolStr,
    /// The name.
    pub name: SmolStr,
    /// The cluster.
    pub cluster: SmolStr,
}

impl WorkloadKey {
    /// Returns the key of the workload that an object makes.
    pub fn of(object: &ObjectKey) -> Self {
        Self { namespace: object.namespace.clone(), name: object.name.clone(), cluster: object.cluster.clone() }
    }
}

impl Workload {
    /// Returns its labels with those of where it runs; selectors of services select by them.
    pub fn located_labels(&self) -> LocatedLabels<'_> {
        LocatedLabels { own: &self.labels, locality: &self.locality, cluster: &self.cluster, node: &self.node, network: None }
    }

    /// Returns the key of the workload.
    pub fn key(&self) -> WorkloadKey {
        WorkloadKey { namespace: self.namespace.clone(), name: self.name.clone(), cluster: self.cluster.clone() }
    }
}

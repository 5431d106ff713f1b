//! Labels that say where something runs.

/// The region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// The zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The subzone.
pub const SUBZONE: &str = "topology.istio.io/subzone";
/// The cluster.
pub const CLUSTER: &str = "topology.istio.io/cluster";
/// The network.
pub const NETWORK: &str = "topology.istio.io/network";
/// The Kubernetes node.
pub const NODE: &str = "kubernetes.io/hostname";

//! Names of resources, as Istio spells them (contract §3): a wire contract with istioctl and between meshes.

use smol_str::{SmolStr, format_smolstr};

use crate::mesh::model::Hostname;

/// Where traffic goes that nothing may take.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// Outbound traffic to its original destination.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Inbound traffic to its original destination.
pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";

/// `outbound|9080|v1|reviews.shop.svc.cluster.local`; an empty subset is none.
pub fn outbound_cluster(port: u16, subset: &str, host: &Hostname) -> SmolStr {
    format_smolstr!("outbound|{port}|{subset}|{host}")
}

/// `inbound|8080||`
pub fn inbound_cluster(target_port: u16) -> SmolStr {
    format_smolstr!("inbound|{target_port}||")
}

/// `outbound_.9080_.v1_.reviews.shop.svc.cluster.local`: cluster of an AUTO_PASSTHROUGH gateway, and the SNI of
/// in-mesh mTLS.
pub fn dns_srv(port: u16, subset: &str, host: &Hostname) -> SmolStr {
    format_smolstr!("outbound_.{port}_.{subset}_.{host}")
}

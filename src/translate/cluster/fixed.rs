//! The clusters that every proxy has: black hole and passthrough.

use std::sync::Arc;

use envoy_types::pb::envoy::config::{
    cluster::v3::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy},
    },
    core::v3::{BindConfig, ExtraSourceAddress, SocketAddress, socket_address::PortSpecifier},
};
use smol_str::SmolStr;

use super::{ClusterInput, Profile, connection};
use crate::{
    mesh::{model::ProxyKind, settings::MeshSettings},
    translate::{
        input::{Built, ByPtr, ProxyClass},
        naming,
    },
};

/// One of the clusters that do not depend on any service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fixed {
    profile: Profile,
    mesh: ByPtr<MeshSettings>,
    which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    BlackHole,
    Passthrough,
    InboundPassthrough,
}

/// Returns all three for sidecars, and only the black hole for gateways.
pub fn fixed_inputs(class: &ProxyClass, mesh: &Arc<MeshSettings>) -> Vec<ClusterInput> {
    let which: &[Which] = match class.kind {
        ProxyKind::Sidecar => &[Which::BlackHole, Which::InboundPassthrough, Which::Passthrough],
        ProxyKind::Gateway => &[Which::BlackHole],
    };
    let fixed = |which: &Which| ClusterInput::Fixed(Fixed { profile: class.into(), mesh: mesh.into(), which: *which });
    which.iter().map(fixed).collect()
}

pub(super) fn cluster(input: &Fixed) -> Built<Cluster> {
    let mut cluster = Cluster { name: input.name().into(), ..Default::default() };
    // Envoy's statistics of both passthrough clusters run under one name, as istiod's do.
    cluster.alt_stat_name = match input.which {
        Which::BlackHole => format!("{};", naming::BLACK_HOLE_CLUSTER),
        Which::Passthrough | Which::InboundPassthrough => format!("{};", naming::PASSTHROUGH_CLUSTER),
    };
    connection::apply(&mut cluster, &input.mesh, None, connection::HttpVersion::One, connection::UpstreamHttp::default());
    match input.which {
        Which::BlackHole => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
            cluster.circuit_breakers = None;
            cluster.upstream_connection_options = None;
        }
        Which::Passthrough | Which::InboundPassthrough => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
            cluster.lb_policy = LbPolicy::ClusterProvided.into();
            cluster.typed_extension_protocol_options = connection::passthrough_options(input.profile.preserves_case);
        }
    }
    match input.which {
        Which::BlackHole => {}
        Which::Passthrough => cluster.filters = super::upstream_tls::peer_exchange_filter(input.profile.flavour),
        Which::InboundPassthrough => cluster.upstream_bind_config = Some(passthrough_bind(input.profile)),
    }
    Built::new(cluster, [])
}

/// Lets connections to the workload come from 127.0.0.6 (`::6`), so that the capture rules leave them alone.
pub(super) fn passthrough_bind(profile: Profile) -> BindConfig {
    let address =
        |address: &str| SocketAddress { address: address.into(), port_specifier: Some(PortSpecifier::PortValue(0)), ..Default::default() };
    let (first, extra) = match (profile.ipv4, profile.ipv6) {
        (false, true) => ("::6", None),
        (true, true) => ("127.0.0.6", Some("::6")),
        _ => ("127.0.0.6", None),
    };
    BindConfig {
        source_address: Some(address(first)),
        extra_source_addresses: extra
            .map(|extra| ExtraSourceAddress { address: Some(address(extra)), socket_options: None })
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

impl Fixed {
    pub(super) fn name(&self) -> SmolStr {
        SmolStr::new_static(match self.which {
            Which::BlackHole => naming::BLACK_HOLE_CLUSTER,
            Which::Passthrough => naming::PASSTHROUGH_CLUSTER,
            Which::InboundPassthrough => naming::INBOUND_PASSTHROUGH_CLUSTER,
        })
    }
}

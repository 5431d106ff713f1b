//! Network filters of TCP chains (contract §3.3, §3.5).

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::AccessLog,
            listener::v3::{Filter, filter::ConfigType},
        },
        extensions::filters::network::{
            mongo_proxy::v3::MongoProxy,
            sni_dynamic_forward_proxy::v3::{FilterConfig as SniForwardProxy, filter_config::PortSpecifier},
            tcp_proxy::v3::{
                TcpProxy,
                tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
            },
        },
        r#type::v3::{HashPolicy, hash_policy::PolicySpecifier},
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use super::{access_log::access_log, http::dns_cache};
use crate::{
    mesh::{model::Flavour, settings::MeshSettings},
    translate::{
        naming::BLACK_HOLE_CLUSTER,
        tls::PEER_EXCHANGE,
        wkt::{
            self,
            typed_struct::{Value, typed_struct},
        },
    },
};

/// Where the bytes of a TCP chain go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpTarget {
    /// Clusters by weight; a single one needs none.
    pub clusters: Vec<(SmolStr, u32)>,
    /// Whether these are the destinations of a VirtualService: weights are then written even for one cluster.
    pub weighted: bool,
    /// Prefix of the proxy's statistics.
    pub stat_prefix: SmolStr,
    /// How long a connection may carry nothing before it is closed.
    pub idle_timeout: Option<Duration>,
    /// How long a connection may live.
    pub max_duration: Option<Duration>,
    /// Whether the connections of one client address keep to one endpoint.
    pub by_source_ip: bool,
    /// Whether it is MongoDB's protocol, whose filter counts operations.
    pub mongo: bool,
    /// The destination is resolved from the SNI: DNS cache and port.
    pub sni_forward: Option<(SmolStr, u16)>,
}

impl TcpTarget {
    /// Sends everything to one cluster, which also names the statistics.
    pub fn cluster(name: impl Into<SmolStr>) -> Self {
        let name = name.into();
        Self {
            stat_prefix: name.clone(),
            clusters: vec![(name, 1)],
            weighted: false,
            idle_timeout: None,
            max_duration: None,
            by_source_ip: false,
            mongo: false,
            sni_forward: None,
        }
    }
}

/// Returns the filters of a chain that ends in a TCP proxy.
pub fn tcp_filters(target: &TcpTarget, mesh: &MeshSettings) -> Vec<Filter> {
    let mut filters = Vec::with_capacity(2);
    if let Some((cache, port)) = &target.sni_forward {
        filters.push(sni_forward_proxy(cache, *port));
    }
    if target.mongo {
        let config = MongoProxy { stat_prefix: target.stat_prefix.to_string(), ..Default::default() };
        filters.push(filter("envoy.filters.network.mongo_proxy", wkt::any(&config)));
    }
    filters.push(tcp_proxy(target, access_log(mesh)));
    filters
}

/// Returns the filter that sends connections nowhere, without an access log.
pub fn black_hole() -> Filter {
    tcp_proxy(&TcpTarget::cluster(BLACK_HOLE_CLUSTER), Vec::new())
}

/// Returns the filter that exchanges metadata before the first byte of a TCP connection: first in each chain of Istio's
/// proxy for inbound traffic, absent from a stock Envoy.
pub fn metadata_exchange(flavour: Flavour) -> Option<Filter> {
    (flavour == Flavour::Istio).then(|| filter("istio.metadata_exchange", metadata_exchange_config()))
}

/// Returns the configuration of that filter, for listeners and clusters alike.
pub fn metadata_exchange_config() -> Any {
    typed_struct(
        "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
        vec![("enable_discovery", Value::Bool(true)), ("protocol", Value::Text(PEER_EXCHANGE.into()))],
    )
}

fn tcp_proxy(target: &TcpTarget, access_log: Vec<AccessLog>) -> Filter {
    let config = TcpProxy {
        stat_prefix: target.stat_prefix.to_string(),
        idle_timeout: target.idle_timeout.map(wkt::duration),
        max_downstream_connection_duration: target.max_duration.map(wkt::duration),
        access_log,
        hash_policy: if target.by_source_ip { vec![source_ip()] } else { Vec::new() },
        cluster_specifier: Some(cluster_specifier(target)),
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", wkt::any(&config))
}

fn source_ip() -> HashPolicy {
    HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(Default::default())) }
}

fn cluster_specifier(target: &TcpTarget) -> ClusterSpecifier {
    match target.clusters.as_slice() {
        [(name, _)] if !target.weighted => ClusterSpecifier::Cluster(name.to_string()),
        clusters => {
            let weigh = |(name, weight): &(SmolStr, u32)| ClusterWeight { name: name.to_string(), weight: *weight, ..Default::default() };
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.iter().map(weigh).collect() })
        }
    }
}

fn sni_forward_proxy(cache: &str, port: u16) -> Filter {
    let config = SniForwardProxy {
        dns_cache_config: Some(dns_cache(cache)),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    filter("envoy.extensions.filters.network.sni_dynamic_forward_proxy", wkt::any(&config))
}

fn filter(name: &str, config: Any) -> Filter {
    Filter { name: name.into(), config_type: Some(ConfigType::TypedConfig(config)) }
}

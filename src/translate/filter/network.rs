//! Network filters of TCP chains (contract §3.3, §3.5).

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, AccessLogFilter, AndFilter, access_log_filter::FilterSpecifier},
            listener::v3::{Filter, filter::ConfigType},
        },
        data::accesslog::v3::AccessLogType,
        extensions::filters::network::{
            mongo_proxy::v3::MongoProxy,
            sni_dynamic_forward_proxy::v3::{FilterConfig as SniForwardProxy, filter_config::PortSpecifier},
            tcp_proxy::v3::{
                TcpProxy, UpstreamConnectMode,
                tcp_proxy::{ClusterSpecifier, TcpAccessLogOptions, WeightedCluster, weighted_cluster::ClusterWeight},
            },
        },
        r#type::v3::{HashPolicy, hash_policy::PolicySpecifier},
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use super::{
    Direction,
    access_log::access_logs,
    http::dns_cache,
    istio_stats,
    metrics::{of_connections, only},
};
use crate::{
    mesh::model::Flavour,
    translate::{
        input::ListenerClass,
        naming::BLACK_HOLE_CLUSTER,
        tls::PEER_EXCHANGE,
        wkt::{
            self,
            typed_struct::{Value, typed_struct},
        },
    },
};

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

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

/// What is told of the connections of a chain, and when.
#[derive(Clone, Copy, Debug)]
pub struct Reports<'a> {
    /// The class of proxies: which logs and metrics they have.
    pub class: &'a ListenerClass,
    /// Where the chain stands.
    pub direction: Direction,
    /// Whether the client shows a certificate of the mesh, which is told of its connections.
    pub from_mesh: bool,
}

/// Returns the filters of a chain that ends in a TCP proxy.
pub fn tcp_filters(target: &TcpTarget, reports: Reports<'_>) -> Vec<Filter> {
    let mut filters = stats(reports.class, reports.direction);
    if let Some((cache, port)) = &target.sni_forward {
        filters.push(sni_forward_proxy(cache, *port));
    }
    if target.mongo {
        let config = MongoProxy { stat_prefix: target.stat_prefix.to_string(), ..Default::default() };
        filters.push(filter("envoy.filters.network.mongo_proxy", wkt::any(&config)));
    }
    filters.push(filter(TCP_PROXY, wkt::any(&reported(tcp_proxy(target), reports))));
    filters
}

/// Returns the filter that sends connections nowhere, without an access log.
pub fn black_hole() -> Filter {
    filter(TCP_PROXY, wkt::any(&tcp_proxy(&TcpTarget::cluster(BLACK_HOLE_CLUSTER))))
}

/// Returns the filters that count connections, in Istio's proxy.
pub fn stats(class: &ListenerClass, direction: Direction) -> Vec<Filter> {
    istio_stats::configs(class, direction).into_iter().map(|config| filter(istio_stats::NAME, config)).collect()
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

fn tcp_proxy(target: &TcpTarget) -> TcpProxy {
    TcpProxy {
        stat_prefix: target.stat_prefix.to_string(),
        idle_timeout: target.idle_timeout.map(wkt::duration),
        max_downstream_connection_duration: target.max_duration.map(wkt::duration),
        hash_policy: if target.by_source_ip { vec![source_ip()] } else { Vec::new() },
        cluster_specifier: Some(cluster_specifier(target)),
        ..Default::default()
    }
}

/// Returns the TCP proxy with what tells of its connections. Where they are counted, there is an entry for their beginning too, which
/// other logs leave out; and a client's certificate has to be seen before that.
fn reported(proxy: TcpProxy, reports: Reports<'_>) -> TcpProxy {
    let logs = access_logs(&reports.class.own.reports);
    let metrics = of_connections(reports.class.own.metrics, reports.direction, &reports.class.own.reports);
    if metrics.is_empty() {
        return TcpProxy { access_log: logs, ..proxy };
    }
    let awaits = reports.from_mesh && reports.direction == Direction::Inbound;
    TcpProxy {
        access_log: logs.into_iter().map(of_ends).chain(metrics).collect(),
        access_log_options: Some(TcpAccessLogOptions { flush_access_log_on_connected: true, ..Default::default() }),
        upstream_connect_mode: if awaits { UpstreamConnectMode::OnDownstreamTlsHandshake.into() } else { 0 },
        max_early_data_bytes: if awaits { wkt::uint32(0) } else { None },
        ..proxy
    }
}

fn of_ends(log: AccessLog) -> AccessLog {
    let ends = only(AccessLogType::TcpConnectionEnd);
    let filter = match log.filter {
        None => ends,
        Some(filter) => {
            let both = AndFilter { filters: vec![ends, filter] };
            AccessLogFilter { filter_specifier: Some(FilterSpecifier::AndFilter(both)) }
        }
    };
    AccessLog { filter: Some(filter), ..log }
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

//! What Envoy demands of a whole listener or cluster, beside its rules for fields. Only what Envoy refuses is refused here; what is
//! not known is passed over.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy},
            },
            listener::v3::{Filter, FilterChain, Listener, filter, listener_filter},
        },
        extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, HttpFilter, http_filter},
    },
    google::protobuf::Any,
};
use prost::{Message, Name};

use crate::{proto::udpa::TypedStruct, reflection::is_typed_struct};

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// Network filters that end a chain.
const TERMINAL: [&str; 7] = [
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
    "envoy.extensions.filters.network.thrift_proxy.v3.ThriftProxy",
    "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
    "envoy.extensions.filters.network.echo.v3.Echo",
    "envoy.extensions.filters.network.direct_response.v3.Config",
];
/// Network filters that hand on.
const PASSING: [&str; 10] = [
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.network.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    "envoy.extensions.filters.network.set_filter_state.v3.Config",
    "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy",
    "envoy.extensions.filters.network.zookeeper_proxy.v3.ZooKeeperProxy",
    "envoy.extensions.filters.network.wasm.v3.Wasm",
];

/// Returns why Envoy refuses a listener, as it goes on after its name.
pub(super) fn listener(message: &Listener) -> Option<String> {
    let nameless =
        |filter: &&listener_filter::ConfigType| matches!(filter, listener_filter::ConfigType::TypedConfig(any) if any.type_url.is_empty());
    let bare = message.listener_filters.iter().find(|filter| filter.config_type.as_ref().is_none_or(|config| nameless(&config)));
    if let Some(filter) = bare {
        return Some(format!("listener filter {} has no typed_config", filter.name));
    }
    let chains = || message.filter_chains.iter().chain(&message.default_filter_chain);
    same_match(message).or_else(|| chains().find_map(chain))
}

/// Returns why Envoy refuses a cluster, as it goes on after its name.
pub(super) fn cluster(message: &Cluster) -> Option<String> {
    let Some(ClusterDiscoveryType::Type(kind)) = message.cluster_discovery_type else { return None };
    let kind = DiscoveryType::try_from(kind).ok()?;
    let is_provided = message.lb_policy == LbPolicy::ClusterProvided as i32;
    match kind {
        DiscoveryType::Eds if message.eds_cluster_config.is_none() => Some("is of type EDS and has no eds_cluster_config".to_owned()),
        DiscoveryType::OriginalDst if !is_provided => Some("is of type ORIGINAL_DST, which needs lb_policy CLUSTER_PROVIDED".to_owned()),
        DiscoveryType::OriginalDst | DiscoveryType::Eds if message.load_assignment.is_some() => {
            Some("has a load_assignment, which this type takes none of".to_owned())
        }
        kind if kind != DiscoveryType::Eds && message.eds_cluster_config.is_some() => {
            Some("has an eds_cluster_config, and is not of type EDS".to_owned())
        }
        _ => None,
    }
}

/// Returns which two filter chains match the same.
fn same_match(message: &Listener) -> Option<String> {
    if message.filter_chain_matcher.is_some() {
        return None;
    }
    let mut known: HashMap<Vec<u8>, &FilterChain> = HashMap::new();
    for chain in &message.filter_chains {
        let matched = chain.filter_chain_match.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        if let Some(first) = known.insert(matched, chain) {
            return Some(format!("filter chains {:?} and {:?} match the same connections", first.name, chain.name));
        }
    }
    None
}

fn chain(chain: &FilterChain) -> Option<String> {
    let last = chain.filters.len().checked_sub(1)?;
    chain.filters.iter().enumerate().find_map(|(at, filter)| network_filter(filter, at == last))
}

fn network_filter(filter: &Filter, is_last: bool) -> Option<String> {
    let config = match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(config)) if !config.type_url.is_empty() => config,
        Some(filter::ConfigType::ConfigDiscovery(_)) => return None,
        _ => return Some(format!("network filter {} has no typed_config", filter.name)),
    };
    let kind = type_of(config);
    if TERMINAL.contains(&kind.as_str()) && !is_last {
        return Some(format!("network filter {} must be the last of its chain", filter.name));
    }
    if PASSING.contains(&kind.as_str()) && is_last {
        return Some(format!("network filter {} cannot be the last of its chain", filter.name));
    }
    let manager = (kind == HttpConnectionManager::full_name()).then(|| HttpConnectionManager::decode(&config.value[..]).ok()).flatten()?;
    http_filters(&manager.http_filters)
}

fn http_filters(filters: &[HttpFilter]) -> Option<String> {
    let last = filters.len().checked_sub(1)?;
    filters.iter().enumerate().find_map(|(at, filter)| {
        let config = match &filter.config_type {
            Some(http_filter::ConfigType::TypedConfig(config)) if !config.type_url.is_empty() => config,
            Some(http_filter::ConfigType::ConfigDiscovery(_)) if at < last => return None,
            Some(http_filter::ConfigType::ConfigDiscovery(_)) => return Some(not_last(filter)),
            _ => return Some(format!("HTTP filter {} has no typed_config", filter.name)),
        };
        match (type_of(config) == ROUTER, at == last) {
            (true, false) => Some(format!("HTTP filter {} must be the last: put others before it", filter.name)),
            (false, true) => Some(not_last(filter)),
            _ => None,
        }
    })
}

fn not_last(filter: &HttpFilter) -> String {
    format!("HTTP filter {} cannot be the last: that must be the router", filter.name)
}

/// Returns the full name of a packed message's type.
fn type_of(any: &Any) -> String {
    let name = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    let own = name(&any.type_url);
    match is_typed_struct(&own) {
        true => TypedStruct::decode(&any.value[..]).map_or(own, |inner| name(&inner.type_url)),
        false => own,
    }
}

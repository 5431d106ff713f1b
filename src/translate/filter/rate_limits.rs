//! Filters that hold limits: a listener says only that they are there, and asks for what they do.

use envoy_types::pb::envoy::{
    config::core::v3::ExtensionConfigSource,
    extensions::filters::{
        http::{local_ratelimit::v3::LocalRateLimit, ratelimit::v3::RateLimit},
        network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
    },
};
use prost::Name;

use crate::{
    mesh::rate_limit::PlacedLimit,
    translate::{input::Built, naming::outbound_cluster, tls::ads},
};

/// The filters of one workload's limits, in the order in which requests meet them.
#[derive(Clone, Debug, Default)]
pub struct LimitFilters(Vec<(PlacedLimit, HttpFilter)>);

impl LimitFilters {
    /// Makes the filters.
    pub fn of(placed: &[PlacedLimit]) -> Self {
        Self(placed.iter().map(|limit| (limit.clone(), filter(limit))).collect())
    }

    /// Returns those of a connection manager for a port of the workload.
    pub fn at(&self, port: u16) -> impl Iterator<Item = HttpFilter> {
        self.0.iter().filter(move |(limit, _)| limit.covers(port)).map(|(_, filter)| filter.clone())
    }

    /// Notes at a listener what it asks for, and who is asked, if it has a connection manager for the port.
    pub fn note<M>(&self, port: u16, built: &mut Built<M>) {
        for (limit, _) in self.0.iter().filter(|(limit, _)| limit.covers(port)) {
            built.extensions.push(limit.filter.clone());
            built.clusters.extend(limit.counter.iter().map(|(host, port)| outbound_cluster(*port, "", host)));
        }
    }
}

fn filter(limit: &PlacedLimit) -> HttpFilter {
    let type_url = if limit.counter.is_some() { RateLimit::type_url() } else { LocalRateLimit::type_url() };
    let discovered = ExtensionConfigSource { config_source: Some(ads()), type_urls: vec![type_url], ..ExtensionConfigSource::default() };
    HttpFilter { name: limit.filter.to_string(), config_type: Some(ConfigType::ConfigDiscovery(discovered)), ..HttpFilter::default() }
}

//! Turns the destinations of TLS and TCP routes into targets of TCP proxies.

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::SmolStr;

use crate::{
    mesh::{
        model::{Hostname, Protocol, Service},
        routing::{
            model::{RouteSet, WeightedDestination},
            selection::l4_port,
        },
        traffic::{EffectiveDestinationRule, HashKey},
    },
    translate::{
        filter::network::TcpTarget,
        naming::{outbound_cluster, statistics_name},
    },
};

/// What is needed to turn destinations into clusters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destinations<'a> {
    /// Services that the proxy knows.
    pub(crate) services: &'a OrdMap<Hostname, Arc<Service>>,
    /// Their DestinationRules.
    pub(crate) destination_rules: &'a OrdMap<Hostname, Arc<EffectiveDestinationRule>>,
    /// The proxy's own `IDLE_TIMEOUT`.
    pub(crate) idle_timeout: Option<std::time::Duration>,
    /// `outboundClusterStatName`
    pub(crate) stat_name: &'a str,
    /// The port of the listener (at gateways: of the server).
    pub(crate) port: u16,
    /// What is spoken there.
    pub(crate) protocol: Protocol,
}

impl Destinations<'_> {
    /// Sends every connection to one service port and subset.
    pub(crate) fn single(&self, host: &Hostname, subset: &str, port: u16) -> TcpTarget {
        let mut target = TcpTarget { mongo: self.protocol == Protocol::Mongo, ..TcpTarget::cluster(outbound_cluster(port, subset, host)) };
        let service = self.services.get(host);
        if let Some((service, port)) = service.and_then(|service| Some((service, service.port(port)?)))
            && let Some(name) = statistics_name(self.stat_name, service, port, subset)
        {
            target.stat_prefix = name.into();
        }
        self.limit(&mut target, host, subset);
        target
    }

    /// Sends connections to the destinations of a rule, by weight; `None` when there is none with a weight.
    pub(crate) fn route(&self, routes: &RouteSet, destinations: &[WeightedDestination]) -> Option<TcpTarget> {
        if let [only] = destinations {
            return Some(self.single(
                &only.destination.host,
                &only.destination.subset,
                l4_port(&only.destination, self.services, self.port),
            ));
        }
        let first = destinations.first()?;
        let clusters = destinations.iter().filter(|weighted| weighted.weight > 0).map(|weighted| {
            let destination = &weighted.destination;
            (outbound_cluster(l4_port(destination, self.services, self.port), &destination.subset, &destination.host), weighted.weight)
        });
        let clusters = clusters.collect::<Vec<_>>();
        let mut target = TcpTarget { mongo: self.protocol == Protocol::Mongo, ..TcpTarget::cluster(SmolStr::default()) };
        target.stat_prefix = format!("{}.{}", routes.name, routes.namespace).into();
        target.weighted = true;
        target.clusters = clusters;
        self.limit(&mut target, &first.destination.host, "");
        (!target.clusters.is_empty()).then_some(target)
    }

    // As in istiod, limits for single ports and those of a subset do not count here.
    fn limit(&self, target: &mut TcpTarget, host: &Hostname, subset: &str) {
        let rule = self.destination_rules.get(host);
        let tcp = rule.and_then(|rule| rule.policy.default.connection_pool.as_ref()).map(|pool| &pool.tcp);
        target.by_source_ip = rule.is_some_and(|rule| hashes_source_ip(rule, subset));
        target.idle_timeout = tcp.and_then(|tcp| tcp.idle_timeout).or(self.idle_timeout);
        target.max_duration = tcp.and_then(|tcp| tcp.max_connection_duration);
    }
}

fn hashes_source_ip(rule: &EffectiveDestinationRule, subset: &str) -> bool {
    let policy = rule.subset(subset).map_or(&rule.policy, |subset| &subset.policy);
    policy.default.load_balancer.as_ref().and_then(|balancer| balancer.hash_key()) == Some(&HashKey::SourceIp)
}

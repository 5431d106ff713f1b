//! The traffic policy of one port and subset (contract §6.3 Subset merge).

use crate::{
    api::istio::{ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, SimpleLb, Subset},
    mesh::world::{EffectiveDestinationRule, TrafficPolicy},
};

/// What applies to one cluster after port-level settings and the subset's own policy.
#[derive(Clone, Copy, Default)]
pub(crate) struct Policy<'a> {
    pub(crate) load_balancer: Option<&'a LoadBalancer>,
    pub(crate) connection_pool: Option<&'a ConnectionPool>,
    pub(crate) outlier_detection: Option<&'a OutlierDetection>,
    pub(crate) tls: Option<&'a ClientTls>,
}

impl<'a> Policy<'a> {
    /// The policy that `rule` gives to `port`, of `subset` when there is one.
    pub(crate) fn new(rule: Option<&'a EffectiveDestinationRule>, subset: Option<&'a Subset>, port: u16) -> Self {
        let mut policy = Self::default();
        policy.overlay(rule.and_then(|rule| rule.policy.as_deref()), port);
        policy.overlay(subset.and_then(|subset| subset.traffic_policy.as_deref()), port);
        policy
    }

    /// Whether connections go where the client wanted them (`loadBalancer.simple: PASSTHROUGH`). Said for the whole
    /// service it holds for its subsets too, whatever these say (contract §6.3).
    pub(crate) fn balances_by_destination(rule: Option<&EffectiveDestinationRule>, subset: Option<&Subset>, port: u16) -> bool {
        [None, subset].into_iter().any(|subset| {
            let load_balancer = Policy::new(rule, subset, port).load_balancer;
            load_balancer.is_some_and(|lb| lb.simple == SimpleLb::Passthrough)
        })
    }

    // A field that is set replaces the whole field; settings of the port replace all four, also by nothing.
    fn overlay(&mut self, over: Option<&'a TrafficPolicy>, port: u16) {
        let Some(over) = over else { return };
        match over.port_level_settings.iter().find(|settings| settings.port == port) {
            Some(settings) => {
                *self = Self {
                    load_balancer: settings.load_balancer.as_ref(),
                    connection_pool: settings.connection_pool.as_ref(),
                    outlier_detection: settings.outlier_detection.as_ref(),
                    tls: settings.tls.as_ref(),
                }
            }
            None => {
                *self = Self {
                    load_balancer: over.load_balancer.as_ref().or(self.load_balancer),
                    connection_pool: over.connection_pool.as_ref().or(self.connection_pool),
                    outlier_detection: over.outlier_detection.as_ref().or(self.outlier_detection),
                    tls: over.tls.as_ref().or(self.tls),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::istio::{HttpSettings, PortTrafficPolicy, TcpSettings};

    fn pool(max_connections: u32) -> ConnectionPool {
        ConnectionPool { tcp: Some(TcpSettings { max_connections, ..Default::default() }), http: None }
    }

    #[test]
    fn a_subset_replaces_whole_fields_and_a_port_replaces_all() {
        let top = TrafficPolicy {
            load_balancer: Some(LoadBalancer { simple: SimpleLb::RoundRobin, ..Default::default() }),
            connection_pool: Some(pool(7)),
            port_level_settings: vec![PortTrafficPolicy { port: 81, connection_pool: Some(pool(9)), ..Default::default() }],
            ..Default::default()
        };
        let http = ConnectionPool { tcp: None, http: Some(HttpSettings { max_retries: 3, ..Default::default() }) };
        let subset = Subset {
            traffic_policy: Some(Arc::new(TrafficPolicy { connection_pool: Some(http.clone()), ..Default::default() })),
            ..Default::default()
        };
        let rule = EffectiveDestinationRule { policy: Some(Arc::new(top)), subsets: vec![subset], origins: vec![] };

        let plain = Policy::new(Some(&rule), None, 80);
        assert_eq!(plain.connection_pool, Some(&pool(7)));
        let of_subset = Policy::new(Some(&rule), rule.subsets.first(), 80);
        assert_eq!(of_subset.connection_pool, Some(&http), "the subset's pool drops the settings of the top");
        assert!(of_subset.load_balancer.is_some());
        let of_port = Policy::new(Some(&rule), None, 81);
        assert_eq!(of_port.connection_pool, Some(&pool(9)));
        assert_eq!(of_port.load_balancer, None, "what port settings omit is not inherited");
    }
}

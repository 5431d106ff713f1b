//! Traffic policies by port, and what one on top of another means.

use std::sync::Arc;

use super::{
    client_tls::ClientTls, connection_pool::ConnectionPool, load_balancer::LoadBalancer, locality_lb::LocalityLb,
    outlier_detection::OutlierDetection,
};

/// The policy of a host or of a subset: for all ports, and for single ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// For ports that have none of their own.
    pub default: PortPolicy,
    /// By service port, sorted; one for each.
    ports: Vec<(u16, PortPolicy)>,
}

/// What is said of the traffic to one port; `None`: nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// How endpoints are chosen.
    pub load_balancer: Option<Arc<LoadBalancer>>,
    /// Which endpoints go first; `None`: as the Service asks or the mesh has it.
    pub locality: Option<Arc<LocalityLb>>,
    /// Limits of connections.
    pub connection_pool: Option<Arc<ConnectionPool>>,
    /// Which endpoints are left out.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// How connections are secured; `None`: auto-mTLS.
    pub tls: Option<Arc<ClientTls>>,
}

impl TrafficPolicy {
    /// Makes a policy; of several for one port the first counts.
    pub fn new(default: PortPolicy, ports: impl IntoIterator<Item = (u16, PortPolicy)>) -> Self {
        let mut ports: Vec<_> = ports.into_iter().collect();
        ports.sort_by_key(|(port, _)| *port);
        ports.dedup_by_key(|(port, _)| *port);
        Self { default, ports }
    }

    /// Returns what holds for a port.
    pub fn port(&self, number: u16) -> &PortPolicy {
        self.own(number).unwrap_or(&self.default)
    }

    /// Returns what holds for ports that have nothing of their own, and what for each that has.
    pub fn all(&self) -> impl Iterator<Item = &PortPolicy> {
        std::iter::once(&self.default).chain(self.ports.iter().map(|(_, policy)| policy))
    }

    /// Returns this policy on top of another: what it says replaces what the other says. Where it speaks of a port, nothing
    /// of the other holds for that port.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let inherited = below.ports.iter().map(|(port, policy)| (*port, self.default.over(policy)));
        Self::new(self.default.over(&below.default), self.ports.iter().cloned().chain(inherited))
    }

    fn own(&self, number: u16) -> Option<&PortPolicy> {
        let at = self.ports.binary_search_by_key(&number, |(port, _)| *port).ok()?;
        self.ports.get(at).map(|(_, policy)| policy)
    }
}

impl PortPolicy {
    /// Nothing is said.
    pub const NONE: &Self = &NONE;

    /// Returns this policy laid over another: a field that is set replaces the whole field below it.
    fn over(&self, below: &Self) -> Self {
        // The two are one field, written as one.
        let balanced = if self.load_balancer.is_some() { self } else { below };
        Self {
            load_balancer: balanced.load_balancer.clone(),
            locality: balanced.locality.clone(),
            connection_pool: self.connection_pool.as_ref().or(below.connection_pool.as_ref()).cloned(),
            outlier_detection: self.outlier_detection.as_ref().or(below.outlier_detection.as_ref()).cloned(),
            tls: self.tls.as_ref().or(below.tls.as_ref()).cloned(),
        }
    }
}

static NONE: PortPolicy = PortPolicy { load_balancer: None, locality: None, connection_pool: None, outlier_detection: None, tls: None };

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(max_connections: u32) -> PortPolicy {
        let mut pool = ConnectionPool::default();
        pool.tcp.max_connections = Some(max_connections);
        PortPolicy { connection_pool: Some(Arc::new(pool)), ..PortPolicy::default() }
    }

    fn balanced() -> PortPolicy {
        PortPolicy { load_balancer: Some(Arc::new(LoadBalancer::RoundRobin)), ..PortPolicy::default() }
    }

    #[test]
    fn a_port_replaces_all_that_is_said_for_all_ports() {
        let policy = TrafficPolicy::new(balanced(), [(81, pool(9)), (81, pool(10))]);
        assert_eq!(policy.port(80), &balanced());
        assert_eq!(policy.port(81), &pool(9), "the first counts, and what it omits is not inherited");
    }

    #[test]
    fn a_subset_replaces_whole_fields() {
        let below =
            TrafficPolicy::new(PortPolicy { load_balancer: balanced().load_balancer, ..pool(7) }, [(81, pool(9)), (82, balanced())]);
        let subset = TrafficPolicy::new(pool(3), [(82, PortPolicy::default()), (83, balanced())]);
        let merged = subset.over(&below);
        assert_eq!(merged.port(80), &PortPolicy { load_balancer: balanced().load_balancer, ..pool(3) });
        assert_eq!(merged.port(81), &pool(3), "the port's own settings lie below the subset's");
        assert_eq!(merged.port(82), &PortPolicy::default(), "a port of the subset replaces by nothing, too");
        assert_eq!(merged.port(83), &balanced());
    }
}

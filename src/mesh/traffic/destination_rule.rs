//! DestinationRules: policies for a host and for its subsets.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    load_balancer::{HashKey, LoadBalancer},
    policy::{PortPolicy, TrafficPolicy},
};
use crate::mesh::{
    credential::SecretName,
    model::{Hostname, Labels, Origin, PlaceDetail, ProxyKind, Visibility},
};

/// What one DestinationRule says of the traffic to its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// Fully qualified, may be a wildcard.
    pub host: Hostname,
    /// The namespaces whose clients it is for.
    pub export_to: Visibility,
    /// The labels of the clients that it is for, in its own namespace; `None`: all clients.
    pub workload_selector: Option<Labels>,
    /// For the whole host.
    pub policy: Option<Arc<TrafficPolicy>>,
    /// For endpoints with certain labels.
    pub subsets: Vec<Subset>,
}

/// What of its clients' places may count by a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RulePlace {
    /// What does by its own settings.
    pub own: PlaceDetail,
    /// Whether it detects outliers somewhere, so that the mesh's setting has an effect.
    pub detects_outliers: bool,
}

/// Endpoints of a host that have certain labels, with what one rule says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Routes choose it by this name.
    pub name: SmolStr,
    /// The labels that its endpoints have.
    pub labels: Arc<Labels>,
    /// On top of the host's policy.
    pub policy: Option<Arc<TrafficPolicy>>,
}

/// What all DestinationRules that apply to one service for one client namespace say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectiveDestinationRule {
    /// For the whole service.
    pub policy: Arc<TrafficPolicy>,
    /// Subsets of all merged rules, first of a name wins.
    pub subsets: Vec<EffectiveSubset>,
    /// What of its clients' places may count by the merged rules.
    pub place: RulePlace,
    /// The oldest of the merged rules first; its name goes into `metadata.istio.config`.
    pub origins: Vec<Origin>,
}

/// A subset with all that holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSubset {
    /// Routes choose it by this name.
    pub name: SmolStr,
    /// The labels that its endpoints have.
    pub labels: Arc<Labels>,
    /// Its own policy on top of the service's.
    pub policy: Arc<TrafficPolicy>,
}

impl DestinationRule {
    /// Returns what of its clients' places may count by it.
    pub fn place(&self) -> RulePlace {
        let mut place = RulePlace::default();
        let policies = self.policy.iter().chain(self.subsets.iter().filter_map(|subset| subset.policy.as_ref()));
        for policy in policies.flat_map(|policy| policy.all()) {
            place.detects_outliers |= policy.outlier_detection.is_some();
            // Outliers may be detected by what is said below it.
            place.own.extend(&policy.locality.as_ref().map(|setting| setting.place_detail(true)).unwrap_or_default());
        }
        place
    }
}

impl RulePlace {
    /// Returns whether nothing counts.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what may count by another rule.
    pub fn extend(&mut self, other: &Self) {
        self.own.extend(&other.own);
        self.detects_outliers |= other.detects_outliers;
    }
}

impl EffectiveDestinationRule {
    /// Returns the subset of that name.
    pub fn subset(&self, name: &str) -> Option<&EffectiveSubset> {
        self.subsets.iter().find(|subset| subset.name == name)
    }

    /// Returns what holds for a port of a subset, or of the whole service without one.
    pub fn port<'a>(&'a self, subset: Option<&'a EffectiveSubset>, port: u16) -> &'a PortPolicy {
        subset.map_or(&self.policy, |subset| &subset.policy).port(port)
    }

    /// Returns the secrets that proxies of a kind ask for to call these ports.
    pub fn secrets(&self, ports: impl Iterator<Item = u16> + Clone, kind: ProxyKind) -> impl Iterator<Item = &SecretName> {
        let policies = std::iter::once(None).chain(self.subsets.iter().map(Some));
        let of_ports = policies.flat_map(move |subset| ports.clone().map(move |port| self.port(subset, port)));
        of_ports.filter_map(|policy| policy.tls.as_deref()).flat_map(move |tls| tls.secrets(kind))
    }

    /// Returns what the endpoint for a request to a port of a subset (empty: of the whole service) is chosen by, where
    /// that is a consistent hash.
    pub fn hash_key(&self, subset: &str, port: u16) -> Option<&HashKey> {
        self.port(self.subset(subset), port).load_balancer.as_ref()?.hash_key()
    }

    /// Returns whether connections to a port go where the client sent them. When the service says so, its subsets
    /// cannot differ (contract §6.3).
    pub fn balances_by_destination(&self, subset: Option<&EffectiveSubset>, port: u16) -> bool {
        let passes = |policy: &PortPolicy| policy.load_balancer.as_deref() == Some(&LoadBalancer::Passthrough);
        passes(self.policy.port(port)) || subset.is_some_and(|subset| passes(subset.policy.port(port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced(load_balancer: LoadBalancer) -> Arc<TrafficPolicy> {
        let port = PortPolicy { load_balancer: Some(Arc::new(load_balancer)), ..PortPolicy::default() };
        Arc::new(TrafficPolicy::new(port, []))
    }

    #[test]
    fn what_goes_by_destination_as_a_whole_does_so_in_its_subsets() {
        let subset = |load_balancer| EffectiveSubset { name: "v1".into(), labels: Arc::default(), policy: balanced(load_balancer) };
        let rule = |whole, of_subset| EffectiveDestinationRule {
            policy: balanced(whole),
            subsets: vec![subset(of_subset)],
            ..EffectiveDestinationRule::default()
        };
        let by_destination =
            |rule: EffectiveDestinationRule| (rule.balances_by_destination(None, 80), rule.balances_by_destination(rule.subset("v1"), 80));
        assert_eq!(by_destination(rule(LoadBalancer::Passthrough, LoadBalancer::Random)), (true, true));
        assert_eq!(by_destination(rule(LoadBalancer::Random, LoadBalancer::Passthrough)), (false, true));
        assert_eq!(by_destination(rule(LoadBalancer::Random, LoadBalancer::Random)), (false, false));
    }
}

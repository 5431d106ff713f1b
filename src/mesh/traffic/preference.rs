//! Which of MeshConfig, DestinationRule and Service says which endpoints of a service go first.

use std::sync::Arc;

use super::{EffectiveDestinationRule, LocalityLb, PortPolicy};
use crate::mesh::{
    by_ptr::ByPtr,
    model::{PlaceDetail, Resolution, Service, TrafficDistribution},
};

/// How endpoints are preferred to others by where the client is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Preference {
    /// Localities get shares.
    Shares(ByPtr<LocalityLb>),
    /// Nearer ones go first, and others stand in when those fail.
    Failover(ByPtr<LocalityLb>),
    /// As the Service asks.
    Distribution(TrafficDistribution),
}

impl Preference {
    /// Returns how the endpoints of a port with this policy are preferred; `None`: all are alike. A DestinationRule's own setting
    /// goes before what the Service asks for, and that before the mesh's. Without outlier detection nothing would ever fail over.
    pub fn of(mesh: &Arc<LocalityLb>, service: TrafficDistribution, policy: &PortPolicy) -> Option<Self> {
        let setting = match (&policy.locality, service) {
            (Some(own), _) => own,
            (None, TrafficDistribution::Any) => mesh,
            (None, distribution) => return Some(Self::Distribution(distribution)),
        };
        let detects = policy.outlier_detection.is_some();
        match (setting.enabled, setting.distribute.is_empty()) {
            (true, false) => Some(Self::Shares(setting.into())),
            (true, true) if detects => Some(Self::Failover(setting.into())),
            _ => None,
        }
    }

    /// Returns what of a client's place counts.
    pub fn place_detail(&self) -> PlaceDetail {
        match self {
            Self::Shares(setting) | Self::Failover(setting) => setting.place_detail(true),
            Self::Distribution(distribution) => distribution_detail(*distribution),
        }
    }

    /// Returns whether the localities' weights count, and not only those of their endpoints.
    pub fn weighs_localities(&self) -> bool {
        match self {
            Self::Shares(_) | Self::Distribution(_) => true,
            Self::Failover(setting) => !setting.failover.is_empty() || !setting.failover_priority.is_empty(),
        }
    }
}

/// Returns what of a client's place the endpoints of a service may be chosen by under a rule; `None`: all clients are given the same.
pub fn place_detail(mesh: &LocalityLb, service: &Service, rule: Option<&EffectiveDestinationRule>) -> Option<PlaceDetail> {
    let mut detail = own_place_detail(service);
    if service.resolution != Resolution::DynamicDns {
        if let Some(rule) = rule {
            detail.extend(&rule.place.own);
        }
        detail.extend(&mesh.place_detail(rule.is_some_and(|rule| rule.place.detects_outliers)));
    }
    Some(detail).filter(|detail| !detail.is_empty())
}

/// Returns what of a client's place the endpoints of a service are chosen by whatever rules there are.
pub fn own_place_detail(service: &Service) -> PlaceDetail {
    if service.resolution == Resolution::DynamicDns {
        return PlaceDetail::default();
    }
    PlaceDetail { node: service.node_local, ..distribution_detail(service.distribution) }
}

fn distribution_detail(distribution: TrafficDistribution) -> PlaceDetail {
    PlaceDetail { labels: distribution.labels().iter().map(|name| (*name).into()).collect(), ..PlaceDetail::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::traffic::{Distribute, LocalityPattern, OutlierDetection, PriorityLabel};

    fn policy(locality: Option<LocalityLb>, detects: bool) -> PortPolicy {
        let outlier_detection = detects.then(|| Arc::new(OutlierDetection::default()));
        PortPolicy { locality: locality.map(Arc::new), outlier_detection, ..PortPolicy::default() }
    }

    fn shares() -> LocalityLb {
        LocalityLb { distribute: vec![Distribute { from: LocalityPattern::new("*"), to: Vec::new() }], ..LocalityLb::NEAREST }
    }

    #[test]
    fn a_rule_goes_before_a_service_and_that_before_the_mesh() {
        let (mesh, off) = (Arc::new(LocalityLb::NEAREST), LocalityLb { enabled: false, ..LocalityLb::NEAREST });
        let (plain, close) = (TrafficDistribution::Any, TrafficDistribution::PreferSameZone);
        let failover = |setting: &Arc<LocalityLb>| Some(Preference::Failover(setting.into()));
        assert_eq!(Preference::of(&mesh, plain, &policy(None, false)), None);
        assert_eq!(Preference::of(&mesh, plain, &policy(None, true)), failover(&mesh));
        assert_eq!(Preference::of(&Arc::new(off.clone()), plain, &policy(None, true)), None);
        let distribution = Some(Preference::Distribution(TrafficDistribution::PreferSameZone));
        assert_eq!(Preference::of(&mesh, close, &policy(None, true)), distribution);
        for (own, detects) in [(off, true), (LocalityLb::NEAREST, false)] {
            assert_eq!(Preference::of(&mesh, close, &policy(Some(own), detects)), None);
        }
        assert!(matches!(Preference::of(&mesh, plain, &policy(Some(shares()), false)), Some(Preference::Shares(_))));
    }

    #[test]
    fn no_more_of_a_place_counts_than_is_asked_for() {
        let label = |name: &str, value: Option<&str>| PriorityLabel { name: name.into(), value: value.map(Into::into) };
        let by_labels = LocalityLb { failover_priority: vec![label("tier", None), label("app", Some("a"))], ..LocalityLb::NEAREST };
        let detail = by_labels.place_detail(true);
        assert_eq!((detail.locality, detail.labels.into_iter().collect::<Vec<_>>()), (false, vec!["tier".into()]));
        assert!(by_labels.place_detail(false).is_empty());
        assert!(LocalityLb { failover: vec![("a".into(), "b".into())], ..by_labels }.place_detail(true).locality);
        assert!(shares().place_detail(false).locality && !LocalityLb { enabled: false, ..shares() }.place_detail(true).locality);
    }
}

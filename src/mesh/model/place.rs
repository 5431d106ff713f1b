//! Where a client is, and what of that a service's endpoints are chosen by.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::{
    Locality, LocatedLabels, Proxy,
    label::{NETWORK, NODE, REGION, SUBZONE, ZONE},
};
use crate::api::Labels;

/// Where a client is, as far as what it is sent depends on that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Region, zone and subzone, where these count by themselves.
    pub locality: Locality,
    /// The Kubernetes node, where only endpoints of the same one are reached.
    pub node: SmolStr,
    /// Labels of the client, those of where it runs included, that endpoints' labels are compared with.
    pub labels: Labels,
}

/// What of a client's place counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceDetail {
    /// Whether its region, zone and subzone do.
    pub locality: bool,
    /// Whether its node does.
    pub node: bool,
    /// The names of the labels that do.
    pub labels: BTreeSet<SmolStr>,
}

/// Which endpoints of a service go first (`spec.trafficDistribution`); others stand in when those are not ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrafficDistribution {
    /// All are alike.
    #[default]
    Any,
    /// Those of the client's zone, then of its region, then of its network.
    PreferSameZone,
    /// Those of the client's node, then of its subzone, then as for the zone.
    PreferSameNode,
}

impl Place {
    /// Returns where a proxy is, in that detail.
    pub fn of(proxy: &Proxy, detail: &PlaceDetail) -> Self {
        let all = LocatedLabels {
            own: &proxy.labels,
            locality: &proxy.locality,
            cluster: &proxy.cluster,
            node: &proxy.node,
            network: Some(&proxy.network),
        };
        Self {
            locality: if detail.locality { proxy.locality.clone() } else { Locality::default() },
            node: if detail.node { proxy.node.clone() } else { SmolStr::default() },
            labels: detail.labels.iter().filter_map(|name| Some((name.clone(), all.get(name)?.clone()))).collect(),
        }
    }

    /// Returns what of it counts.
    #[must_use]
    pub fn in_detail(&self, detail: &PlaceDetail) -> Self {
        Self {
            locality: if detail.locality { self.locality.clone() } else { Locality::default() },
            node: if detail.node { self.node.clone() } else { SmolStr::default() },
            labels: self.labels.iter().filter(|(name, _)| detail.labels.contains(*name)).map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

impl PlaceDetail {
    /// Returns whether nothing of the place counts.
    pub fn is_empty(&self) -> bool {
        !self.locality && !self.node && self.labels.is_empty()
    }

    /// Adds what counts by another.
    pub fn extend(&mut self, other: &Self) {
        self.locality |= other.locality;
        self.node |= other.node;
        self.labels.extend(other.labels.iter().cloned());
    }
}

impl TrafficDistribution {
    /// Returns what a field or an annotation asks for; `None` where it is not known.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Some(Self::PreferSameZone),
            "prefersamenode" => Some(Self::PreferSameNode),
            _ => None,
        }
    }

    /// Returns the labels by which endpoints are near: the more of them an endpoint shares with the client, from the first, the nearer.
    pub fn labels(self) -> &'static [&'static str] {
        const NEARER_AND_NEARER: &[&str] = &[NETWORK, REGION, ZONE, SUBZONE, NODE];
        match self {
            Self::Any => &[],
            Self::PreferSameZone => &NEARER_AND_NEARER[..3],
            Self::PreferSameNode => NEARER_AND_NEARER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::model::ProxyKind;

    #[test]
    fn only_what_counts_tells_places_apart() {
        let mut proxy = Proxy::new(ProxyKind::Sidecar, "a.shop");
        proxy.locality = Locality { region: "north".into(), zone: "a".into(), subzone: SmolStr::default() };
        proxy.labels = std::sync::Arc::new([("tier".into(), "gold".into()), ("app".into(), "a".into())].into());
        proxy.node = "n1".into();
        let detail = |locality, node, labels: &[&str]| PlaceDetail {
            locality,
            node,
            labels: labels.iter().map(|name| SmolStr::new(*name)).collect(),
        };
        let by_label = Place::of(&proxy, &detail(false, false, &[ZONE, "tier", "other"]));
        let labels: Labels = [(ZONE.into(), "a".into()), ("tier".into(), "gold".into())].into();
        assert_eq!(by_label, Place { labels, ..Place::default() });
        assert_eq!(Place::of(&proxy, &detail(true, true, &["tier"])).in_detail(&detail(false, false, &["tier"])).labels.len(), 1);
        assert_eq!(Place::of(&proxy, &PlaceDetail::default()), Place::default());
    }
}

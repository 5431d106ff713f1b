//! Where a client is, and what of that a service's endpoints are chosen by.

use smol_str::SmolStr;

use super::{
    LocatedLabels, Proxy,
    label::{NETWORK, NODE, REGION, SUBZONE, ZONE},
};

/// Where a client is, as far as what it is sent depends on that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The network; empty: the only one.
    pub network: SmolStr,
    /// The region.
    pub region: SmolStr,
    /// The zone.
    pub zone: SmolStr,
    /// The part of the zone; empty where only zones count.
    pub subzone: SmolStr,
    /// The Kubernetes node; empty where only zones count.
    pub node: SmolStr,
}

/// How closely it counts where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlaceDetail {
    /// By its zone.
    Zone,
    /// By its node.
    Node,
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
    pub fn of(proxy: &Proxy, detail: PlaceDetail) -> Self {
        let written = proxy.labels.get(NETWORK).filter(|network| !network.is_empty());
        let all = Self {
            network: written.unwrap_or(&proxy.network).clone(),
            region: proxy.locality.region.clone(),
            zone: proxy.locality.zone.clone(),
            subzone: proxy.locality.subzone.clone(),
            node: proxy.node.clone(),
        };
        all.in_detail(detail)
    }

    /// Returns what of it counts.
    #[must_use]
    pub fn in_detail(self, detail: PlaceDetail) -> Self {
        match detail {
            PlaceDetail::Zone => Self { subzone: SmolStr::default(), node: SmolStr::default(), ..self },
            PlaceDetail::Node => self,
        }
    }

    /// Returns how far an endpoint with these labels is, by how much of the place it shares: 0 is nearest.
    pub fn distance(&self, distribution: TrafficDistribution, labels: LocatedLabels<'_>) -> u32 {
        let place = [(NETWORK, &self.network), (REGION, &self.region), (ZONE, &self.zone), (SUBZONE, &self.subzone), (NODE, &self.node)];
        let counting = match distribution {
            TrafficDistribution::Any => &place[..0],
            TrafficDistribution::PreferSameZone => &place[..3],
            TrafficDistribution::PreferSameNode => &place[..],
        };
        let shared = counting.iter().take_while(|(name, value)| labels.get(name).map_or("", SmolStr::as_str) == value.as_str());
        (counting.len() - shared.count()) as u32
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

    /// Returns how closely it counts where a client is.
    pub fn detail(self) -> Option<PlaceDetail> {
        match self {
            Self::Any => None,
            Self::PreferSameZone => Some(PlaceDetail::Zone),
            Self::PreferSameNode => Some(PlaceDetail::Node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Labels, mesh::model::Locality};

    #[test]
    fn what_shares_more_of_the_place_is_nearer() {
        let client = Place { region: "north".into(), zone: "a".into(), subzone: "1".into(), node: "n1".into(), ..Place::default() };
        let far = |distribution, region: &str, zone: &str, subzone: &str, node: &str| {
            let locality = Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() };
            let (own, cluster, node) = (Labels::new(), "c".into(), node.into());
            client.distance(distribution, LocatedLabels { own: &own, locality: &locality, cluster: &cluster, node: &node, network: None })
        };
        let (zone, node) = (TrafficDistribution::PreferSameZone, TrafficDistribution::PreferSameNode);
        assert_eq!([far(zone, "north", "a", "2", "n2"), far(zone, "north", "b", "1", "n1"), far(zone, "south", "a", "", "")], [0, 1, 2]);
        let of_node = [far(node, "north", "a", "1", "n1"), far(node, "north", "a", "1", "n2"), far(node, "north", "a", "2", "n1")];
        assert_eq!(of_node, [0, 1, 2]);
        assert_eq!([far(node, "north", "b", "1", "n1"), far(node, "south", "a", "1", "n1")], [3, 4]);
        assert_eq!(far(TrafficDistribution::Any, "south", "b", "", ""), 0);
    }
}

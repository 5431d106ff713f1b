//! Endpoints by where the client is: only those of its node, or those near it first.

use std::collections::BTreeMap;

use super::wire::{Group, Sent};
use crate::mesh::model::{Endpoint, Place, Service, TrafficDistribution};

/// How a service's endpoints are chosen for a client at some place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Nearness {
    /// No more than counts for the service.
    place: Place,
    distribution: TrafficDistribution,
    node_local: bool,
}

impl Nearness {
    /// Returns how a service's endpoints are chosen; `None` where the place does not count.
    pub(super) fn of(place: &Place, service: &Service) -> Option<Self> {
        let place = place.clone().in_detail(service.place_detail()?);
        Some(Self { place, distribution: service.distribution, node_local: service.node_local })
    }

    /// Returns whether the client may be given an endpoint at all.
    pub(super) fn reaches(&self, endpoint: &Endpoint) -> bool {
        !self.node_local || endpoint.backend.node == self.place.node
    }

    /// Splits localities by how near their endpoints are. Priorities have no gaps: the nearest that there are come first.
    pub(super) fn prioritized<'a>(&self, localities: Vec<Group<'a>>) -> Vec<Group<'a>> {
        if self.distribution == TrafficDistribution::Any {
            return localities;
        }
        let mut groups: Vec<Group<'a>> = localities.into_iter().flat_map(|group| self.split(group)).collect();
        let mut distances: Vec<u32> = groups.iter().map(|group| group.priority).collect();
        distances.sort_unstable();
        distances.dedup();
        for group in &mut groups {
            let priority = distances.binary_search(&group.priority).unwrap_or_default();
            group.priority = u32::try_from(priority).unwrap_or_default();
        }
        groups
    }

    fn split<'a>(&self, group: Group<'a>) -> impl Iterator<Item = Group<'a>> + use<'a> {
        let mut by_distance: BTreeMap<u32, Vec<Sent<'a>>> = BTreeMap::new();
        for sent in group.endpoints {
            let distance = self.place.distance(self.distribution, sent.endpoint.backend.located_labels());
            by_distance.entry(distance).or_default().push(sent);
        }
        let locality = group.locality;
        by_distance.into_iter().map(move |(priority, endpoints)| Group { locality, priority, endpoints })
    }
}

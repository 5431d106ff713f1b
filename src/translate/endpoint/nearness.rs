//! Endpoints by where the client is: only those of its node, those near it first, or localities by their shares.

use std::collections::BTreeMap;

use super::wire::{Group, Sent};
use crate::mesh::{
    model::{Endpoint, Locality, Place, Service},
    settings::MeshSettings,
    traffic::{Distribute, LocalityLb, PortPolicy, Preference, PriorityLabel},
};

/// The lowest priority that Envoy knows.
const LOWEST_PRIORITY: usize = 128;
/// How many steps of distance localities have by themselves.
const STEPS_BETWEEN_LOCALITIES: u32 = 5;

/// How the endpoints of a port are chosen for a client at some place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::translate) struct Nearness {
    /// No more than counts for the port.
    place: Place,
    preference: Option<Preference>,
    node_local: bool,
}

impl Nearness {
    /// Returns how the endpoints of a port with this policy are chosen; `None` where the place does not count.
    pub(in crate::translate) fn of(place: &Place, mesh: &MeshSettings, service: &Service, policy: &PortPolicy) -> Option<Self> {
        let (preference, node_local) = (Preference::of(&mesh.locality_lb, service.distribution, policy), service.node_local);
        if preference.is_none() && !node_local {
            return None;
        }
        let mut detail = preference.as_ref().map(Preference::place_detail).unwrap_or_default();
        detail.node = node_local;
        Some(Self { place: place.in_detail(&detail), preference, node_local })
    }

    /// Returns whether the client may be given an endpoint at all.
    pub(super) fn reaches(&self, endpoint: &Endpoint) -> bool {
        !self.node_local || endpoint.backend.node == self.place.node
    }

    /// Sets weights and priorities of localities, and splits those of which some endpoints are nearer than others.
    pub(super) fn apply<'a>(&self, mut localities: Vec<Group<'a>>) -> Vec<Group<'a>> {
        match &self.preference {
            None => localities,
            Some(Preference::Shares(setting)) => {
                let shares = setting.distribute.iter().find(|shares| shares.from.matches(&self.place.locality));
                shares.into_iter().for_each(|shares| share_out(&mut localities, shares));
                localities
            }
            Some(Preference::Distribution(distribution)) => {
                let labels = distribution.labels().iter().map(|name| (*name, None));
                let labels: Vec<_> = labels.collect();
                contiguous(self.split(localities, &labels))
            }
            Some(Preference::Failover(setting)) => contiguous(self.failing_over(localities, setting)),
        }
    }

    fn failing_over<'a>(&self, mut localities: Vec<Group<'a>>, setting: &LocalityLb) -> Vec<Group<'a>> {
        if !setting.failover_priority.is_empty() {
            let labels: Vec<_> =
                setting.failover_priority.iter().map(|PriorityLabel { name, value }| (name.as_str(), value.as_deref())).collect();
            localities = self.split(localities, &labels);
        }
        if setting.counts_localities() {
            let own = &self.place.locality;
            let refuge = setting.failover.iter().find(|(from, _)| *from == own.region).map(|(_, to)| to);
            for group in &mut localities {
                let distance = match distance(own, group.locality) {
                    3 if refuge.is_some_and(|refuge| *refuge != group.locality.region) => 4,
                    distance => distance,
                };
                group.priority = group.priority * STEPS_BETWEEN_LOCALITIES + distance;
            }
        }
        localities
    }

    /// Splits localities by how many of these labels, from the first, their endpoints share with the client or have with the value
    /// that is given.
    fn split<'a>(&self, localities: Vec<Group<'a>>, labels: &[(&str, Option<&str>)]) -> Vec<Group<'a>> {
        let of_client = |name: &str| self.place.labels.get(name).map_or("", |value| value.as_str());
        let wanted: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.unwrap_or_else(|| of_client(name)))).collect();
        let distance = |endpoint: &Endpoint| {
            let labels = endpoint.backend.located_labels();
            let shared = wanted.iter().take_while(|(name, value)| labels.get(name).map_or("", |is| is.as_str()) == *value);
            u32::try_from(wanted.len() - shared.count()).unwrap_or(u32::MAX)
        };
        let split = |group: Group<'a>| {
            let mut by_distance: BTreeMap<u32, Vec<Sent<'a>>> = BTreeMap::new();
            for sent in group.endpoints {
                by_distance.entry(distance(sent.endpoint)).or_default().push(sent);
            }
            by_distance.into_iter().map(move |(priority, endpoints)| Group { priority, ..Group::new(group.locality, endpoints) })
        };
        localities.into_iter().flat_map(split).collect()
    }
}

/// Gives localities their shares, and nothing to those that have none. Localities that one share is for have parts of it by their
/// weights.
fn share_out(localities: &mut [Group<'_>], shares: &Distribute) {
    let mut without: Vec<&mut Group<'_>> = localities.iter_mut().collect();
    for (to, percent) in &shares.to {
        let (mut meant, others): (Vec<_>, Vec<_>) = without.into_iter().partition(|group| to.matches(group.locality));
        without = others;
        // One that nobody is in has no weight.
        let weight = |group: &Group<'_>| u64::from(group.weight.max(1));
        let total: u64 = meant.iter().map(|group| weight(group)).sum();
        for group in &mut meant {
            let part = (weight(group) * u64::from(*percent)).div_ceil(total.max(1));
            group.weight = u32::try_from(part).unwrap_or(u32::MAX);
        }
    }
    without.into_iter().for_each(|group| group.endpoints.clear());
}

/// Returns how far a locality is: 0 is the same, 3 another region.
fn distance(own: &Locality, other: &Locality) -> u32 {
    let same = [own.region == other.region, own.zone == other.zone, own.subzone == other.subzone];
    3 - same.into_iter().take_while(|same| *same).count() as u32
}

/// Returns the groups with priorities without gaps: the nearest that there are come first.
fn contiguous(mut groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let mut distances: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    distances.sort_unstable();
    distances.dedup();
    for group in &mut groups {
        let priority = distances.binary_search(&group.priority).unwrap_or_default().min(LOWEST_PRIORITY);
        group.priority = u32::try_from(priority).unwrap_or_default();
    }
    groups
}

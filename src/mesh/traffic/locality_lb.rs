//! Which endpoints go first by their locality and labels, as MeshConfig and DestinationRules say (`localityLbSetting`).

use smol_str::SmolStr;

use crate::mesh::model::{Locality, PlaceDetail};

/// How endpoints are chosen by where they and their client are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalityLb {
    /// Whether they are at all.
    pub enabled: bool,
    /// Shares of localities, by where the client is; where there are any, nothing else counts.
    pub distribute: Vec<Distribute>,
    /// The region to which each region's clients turn when their own has nobody.
    pub failover: Vec<(SmolStr, SmolStr)>,
    /// The more of these labels an endpoint has, from the first, the nearer it is.
    pub failover_priority: Vec<PriorityLabel>,
}

/// What shares of a client's traffic localities get.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Distribute {
    /// Where the client is.
    pub from: LocalityPattern,
    /// The percentage of each locality; others get nothing.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// `region/zone/subzone`, of which each may be `*`; zone and subzone may be missing, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalityPattern {
    region: Option<SmolStr>,
    zone: Option<SmolStr>,
    subzone: Option<SmolStr>,
}

/// A label that endpoints near a client have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PriorityLabel {
    /// Its name.
    pub name: SmolStr,
    /// Its value; `None`: that of the client.
    pub value: Option<SmolStr>,
}

impl LocalityLb {
    /// Endpoints near the client go first, and nothing else is said.
    pub const NEAREST: Self = Self { enabled: true, distribute: Vec::new(), failover: Vec::new(), failover_priority: Vec::new() };

    /// Returns what of a client's place counts by it. `failing_over`: outliers are detected.
    pub fn place_detail(&self, failing_over: bool) -> PlaceDetail {
        if !self.enabled {
            return PlaceDetail::default();
        }
        if !self.distribute.is_empty() {
            return PlaceDetail { locality: true, ..PlaceDetail::default() };
        }
        if !failing_over {
            return PlaceDetail::default();
        }
        let of_client = self.failover_priority.iter().filter(|label| label.value.is_none());
        PlaceDetail { locality: self.counts_localities(), node: false, labels: of_client.map(|label| label.name.clone()).collect() }
    }

    /// Returns whether those that fail over turn to the nearest localities: not where labels alone decide.
    pub fn counts_localities(&self) -> bool {
        self.failover_priority.is_empty() || !self.failover.is_empty()
    }
}

impl LocalityPattern {
    /// Reads a pattern.
    pub fn new(written: &str) -> Self {
        let mut parts = written.split('/');
        let mut part = |may_be_missing| parts.next().filter(|part| *part != "*" && !(may_be_missing && part.is_empty())).map(SmolStr::new);
        Self { region: part(false), zone: part(true), subzone: part(true) }
    }

    /// Returns whether a locality is meant.
    pub fn matches(&self, locality: &Locality) -> bool {
        let same = |wanted: &Option<SmolStr>, is: &SmolStr| wanted.as_ref().is_none_or(|wanted| wanted == is);
        same(&self.region, &locality.region) && same(&self.zone, &locality.zone) && same(&self.subzone, &locality.subzone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_it_does_not_exclude() {
        let at = |region: &str, zone: &str, subzone: &str| Locality { region: region.into(), zone: zone.into(), subzone: subzone.into() };
        let matches = |pattern: &str, locality: &Locality| LocalityPattern::new(pattern).matches(locality);
        let rack = at("north", "a", "1");
        for pattern in ["*", "north", "north/*", "north/a", "north/a/*", "north/a/1", "*/a"] {
            assert!(matches(pattern, &rack), "{pattern}");
        }
        for pattern in ["", "south", "north/b", "north/a/2", "*/b"] {
            assert!(!matches(pattern, &rack), "{pattern}");
        }
        assert!(matches("", &at("", "a", "")), "a region that is not known is one, too");
    }
}

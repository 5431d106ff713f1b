//! Labels that say where something runs, beside those that were written on it.

use smol_str::SmolStr;

use super::{
    Locality,
    label::{CLUSTER, NETWORK, NODE, REGION, SUBZONE, ZONE},
};
use crate::api::Labels;

/// The labels of a workload with those of the place where it runs, which selectors and subsets may name alike.
///
/// They are looked up and never put together: a table of them for each pod would be as large as all the rest of it.
#[derive(Clone, Copy, Debug)]
pub struct LocatedLabels<'a> {
    pub(super) own: &'a Labels,
    pub(super) locality: &'a Locality,
    pub(super) cluster: &'a SmolStr,
    pub(super) node: &'a SmolStr,
    /// Where that is known otherwise than by a label.
    pub(super) network: Option<&'a SmolStr>,
}

impl<'a> LocatedLabels<'a> {
    /// Returns the value of a label. What is known of the place goes before what is written, but for the network.
    pub fn get(&self, name: &str) -> Option<&'a SmolStr> {
        let own = self.own.get(name);
        let place = match name {
            REGION => &self.locality.region,
            ZONE => &self.locality.zone,
            SUBZONE => &self.locality.subzone,
            CLUSTER => self.cluster,
            NODE => self.node,
            NETWORK => return own.filter(|written| !written.is_empty()).or(self.network.filter(|network| !network.is_empty())),
            _ => return own,
        };
        if place.is_empty() { own } else { Some(place) }
    }

    /// Returns whether all these labels are there; without any, everything is selected.
    pub fn are_selected_by(&self, selector: &Labels) -> bool {
        selector.iter().all(|(name, value)| self.get(name) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_goes_before_what_is_written_but_for_the_network() {
        let label = |name: &str, value: &str| (SmolStr::new(name), SmolStr::new(value));
        let own: Labels = [label("app", "web"), label(ZONE, "written"), label(SUBZONE, "rack"), label(NETWORK, "written")].into();
        let locality = Locality { region: "north".into(), zone: "north-1".into(), subzone: SmolStr::default() };
        let (cluster, nowhere, network) = ("Kubernetes".into(), SmolStr::default(), "other".into());
        let labels = LocatedLabels { own: &own, locality: &locality, cluster: &cluster, node: &nowhere, network: Some(&network) };
        let found = [REGION, ZONE, SUBZONE, CLUSTER, NODE, NETWORK, "app"].map(|name| labels.get(name).map_or("", SmolStr::as_str));
        assert_eq!(found, ["north", "north-1", "rack", "Kubernetes", "", "written", "web"]);
        assert!(labels.are_selected_by(&[label("app", "web"), label(ZONE, "north-1")].into()));
        assert!(!labels.are_selected_by(&[label("app", "web"), label(NODE, "")].into()));
    }
}

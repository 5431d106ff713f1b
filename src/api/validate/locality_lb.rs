//! Rules for `localityLbSetting` of MeshConfig and of a DestinationRule's policies.

use std::collections::HashSet;

use smol_str::SmolStr;

use super::{Check, repeated::repeated};
use crate::api::{
    findings::{Findings, Path},
    istio::{DestinationRule, LoadBalancer, LocalityDistribute, LocalityLb, TrafficPolicy},
};

/// Each endpoint is compared by all of them.
const MOST_LABELS: usize = 100;
const LABELS_OF_PLACES: [&str; 3] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Checks a setting by itself.
pub(super) fn check(setting: &LocalityLb, at: &Path<'_>, findings: &Findings) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        findings.error(&at.field("failover"), "is not possible beside distribute");
    }
    let (distribute, mut clients) = (at.field("distribute"), Localities::default());
    for (index, shares) in setting.distribute.iter().enumerate() {
        let at = distribute.index(index);
        if let Err(why) = clients.add(&shares.from) {
            findings.error(&at.field("from"), why);
        }
        to_whole(shares, &at.field("to"), findings);
    }
    failover(&setting.failover, &at.field("failover"), findings);
    let priority = at.field("failoverPriority");
    if setting.failover_priority.len() > MOST_LABELS {
        findings.error(&priority, format!("are {} labels, more than the {MOST_LABELS} that are possible", setting.failover_priority.len()));
    }
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if !setting.failover.is_empty() && LABELS_OF_PLACES.contains(&label.as_str()) {
            findings.error(&priority.index(index), format!("{label} is not possible beside failover"));
        }
    }
}

impl Check<'_> {
    /// Checks what a rule's policies say of localities.
    pub(super) fn locality_settings(self, rule: &DestinationRule, at: &Path<'_>) {
        let detects = |policy: &TrafficPolicy| policy.outlier_detection.is_some();
        let of_rule = rule.traffic_policy.as_deref();
        let of_subsets = || rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_deref());
        if let Some(policy) = of_rule {
            self.locality_setting(policy, detects(policy) || of_subsets().any(detects), &at.field("trafficPolicy"));
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            if let Some(policy) = subset.traffic_policy.as_deref() {
                let at = at.field("subsets");
                self.locality_setting(policy, detects(policy) || of_rule.is_some_and(detects), &at.index(index).field("trafficPolicy"));
            }
        }
    }

    fn locality_setting(self, policy: &TrafficPolicy, detects: bool, at: &Path<'_>) {
        self.locality_of(policy.load_balancer.as_ref(), detects, at);
        let ports = at.field("portLevelSettings");
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            self.locality_of(port.load_balancer.as_ref(), port.outlier_detection.is_some(), &ports.index(index));
        }
    }

    fn locality_of(self, balancer: Option<&LoadBalancer>, detects: bool, at: &Path<'_>) {
        let Some(setting) = balancer.and_then(|balancer| balancer.locality.as_ref()) else { return };
        let at = at.field("loadBalancer");
        let at = at.field("localityLbSetting");
        check(setting, &at, self.findings);
        if !detects && setting.distribute.is_empty() && setting.enabled != Some(false) {
            self.warning(&at, "has no effect without outlierDetection, by which endpoints are found to have failed: all are used alike");
        }
    }
}

fn to_whole(shares: &LocalityDistribute, at: &Path<'_>, findings: &Findings) {
    let mut endpoints = Localities::default();
    for (to, percent) in &shares.to {
        if let Err(why) = endpoints.add(to) {
            findings.error(&at.key(to), why);
        }
        if !(1..=100).contains(percent) {
            findings.error(&at.key(to), format!("must be from 1 to 100, is {percent}"));
        }
    }
    let sum: u64 = shares.to.iter().map(|(_, percent)| u64::from(*percent)).sum();
    if sum != 100 {
        findings.error(at, format!("must add up to 100, is {sum}"));
    }
}

fn failover(written: &[(SmolStr, SmolStr)], at: &Path<'_>, findings: &Findings) {
    let again = repeated(written.iter().map(|(from, _)| from));
    for ((index, (from, to)), again) in written.iter().enumerate().zip(again) {
        let at = at.index(index);
        for (name, region) in [("from", from), ("to", to)].into_iter().filter(|(_, region)| region.contains(['/', '*'])) {
            findings.error(&at.field(name), format!("must be a region alone, is {region:?}"));
        }
        if from == to {
            findings.error(&at.field("to"), "must be another region");
        }
        if again {
            findings.warning(&at, format!("has no effect: {from} fails over by one before it"));
        }
    }
}

/// The localities of a list, of which none may be a part of another. Only `*` may come last, for all others.
#[derive(Default)]
struct Localities<'a> {
    named: HashSet<&'a str>,
    /// What those that are named are parts of.
    wholes: HashSet<&'a str>,
}

impl<'a> Localities<'a> {
    fn add(&mut self, locality: &'a str) -> Result<(), String> {
        let Some(named) = named_part(locality) else {
            return Err(format!("must be REGION, REGION/ZONE or REGION/ZONE/SUBZONE, of which the last may be *, is {locality:?}"));
        };
        let wholes = || named.match_indices('/').filter_map(|(end, _)| named.get(..end));
        let overlaps = ["", named].into_iter().chain(wholes()).any(|whole| self.named.contains(whole)) || self.wholes.contains(named);
        self.wholes.extend(wholes());
        self.named.insert(named);
        if overlaps { Err(format!("{locality} overlaps with one before it")) } else { Ok(()) }
    }
}

/// Returns what a locality names, without `*` at the end: nothing for all. `None`: it is no locality.
fn named_part(locality: &str) -> Option<&str> {
    let named = if locality == "*" { "" } else { locality.strip_suffix("/*").unwrap_or(locality) };
    let is_whole = named.is_empty() == (locality == "*") && named.split('/').count() <= 3;
    let parts_named = named.is_empty() || named.split('/').all(|part| !part.is_empty() && !part.contains('*'));
    (is_whole && parts_named).then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(setting: &LocalityLb) -> Vec<String> {
        let findings = Findings::default();
        check(setting, &Path::Root.field("s"), &findings);
        findings.into_vec().iter().map(ToString::to_string).collect()
    }

    fn shares(written: &[(&str, &[(&str, u32)])]) -> LocalityLb {
        let to = |to: &[(&str, u32)]| to.iter().map(|(to, percent)| (SmolStr::new(*to), *percent)).collect();
        let distribute = written.iter().map(|(from, all)| LocalityDistribute { from: (*from).into(), to: to(all) });
        LocalityLb { distribute: distribute.collect(), ..LocalityLb::default() }
    }

    #[test]
    fn localities_do_not_overlap_and_shares_are_a_whole() {
        assert_eq!(told(&shares(&[("a/b/c", &[("a/*", 60), ("b/c", 40)]), ("a/b/d/*", &[("*", 100)]), ("*", &[("a", 100)])])), [""; 0]);
        for (first, second) in [("a", "a/b"), ("a/*", "a"), ("a/b", "a"), ("*", "a"), ("a/b/c", "a/b/*"), ("a/b", "a/b/c")] {
            let found = told(&shares(&[(first, &[("x", 100)]), (second, &[("x", 100)])]));
            assert_eq!(found, [format!("error: s.distribute[1].from: {second} overlaps with one before it")]);
        }
        for wrong in ["", "a//c", "*/a", "a/*/c", "a/b/c/d", "a*", "/", "a/"] {
            assert!(told(&shares(&[(wrong, &[("x", 100)])])).join("").contains("must be REGION"), "{wrong}");
        }
        let found = told(&shares(&[("a", &[("a/b", 0), ("b", 99)])]));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn regions_fail_over_to_others_alone() {
        let region = |from: &str, to: &str| (SmolStr::new(from), SmolStr::new(to));
        let failover = vec![region("a", "b"), region("a", "c"), region("b", "b"), region("c/d", "*")];
        let setting = LocalityLb { failover, failover_priority: vec!["app".into(), LABELS_OF_PLACES[1].into()], ..LocalityLb::default() };
        assert_eq!(
            told(&setting),
            [
                "warning: s.failover[1]: has no effect: a fails over by one before it",
                "error: s.failover[2].to: must be another region",
                "error: s.failover[3].from: must be a region alone, is \"c/d\"",
                "error: s.failover[3].to: must be a region alone, is \"*\"",
                "error: s.failoverPriority[1]: topology.kubernetes.io/zone is not possible beside failover",
            ]
        );
        let many = LocalityLb { failover_priority: vec!["app".into(); MOST_LABELS + 1], ..LocalityLb::default() };
        assert_eq!(told(&many).len(), 1);
    }
}

//! Which of Istio's metrics are reported, and with which tags, by all that counts for a proxy: merged as istiod does, by provider.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use smol_str::SmolStr;

use super::Side;
use crate::api::istio::{METRICS, Metrics, MetricsOverride};

/// What is reported to one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReportedMetrics {
    /// What is done otherwise than usual, by the name of the metric as Telemetry has it (`REQUEST_COUNT`, or one of the user's).
    pub overrides: BTreeMap<SmolStr, MetricOverride>,
    /// How often open connections are counted; `None` for the usual.
    pub reporting_interval: Option<Duration>,
}

/// What is done otherwise for one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MetricOverride {
    /// Whether it is not reported.
    pub disabled: bool,
    /// Its tags by name: the expression that makes each, or `None` where it is removed.
    pub tags: BTreeMap<SmolStr, Option<SmolStr>>,
}

/// Merges the entries of all objects, the widest first, over the default providers; those to which nothing is reported are left out.
pub(super) fn merged<'a>(defaults: &'a [SmolStr], entries: &[&'a Metrics], side: Side) -> BTreeMap<&'a SmolStr, ReportedMetrics> {
    if entries.is_empty() {
        return defaults.iter().map(|name| (name, ReportedMetrics::default())).collect();
    }
    let last = entries.iter().rev().map(|entry| entry.providers.as_slice()).find(|named| !named.is_empty());
    let in_scope: BTreeSet<&SmolStr> = last.unwrap_or(defaults).iter().collect();
    let (mut plans, mut off) = (BTreeMap::<&SmolStr, ReportedMetrics>::new(), BTreeSet::new());
    let mut inherited = defaults;
    for entry in entries {
        if !entry.providers.is_empty() {
            inherited = &entry.providers;
        }
        for name in inherited.iter().filter(|name| in_scope.contains(name)) {
            let plan = plans.entry(name).or_default();
            plan.reporting_interval = entry.reporting_interval.or(plan.reporting_interval);
            for of in entry.overrides.iter().filter(|of| side.is_meant(of.mode)) {
                if of.metric.is_none() && of.disabled == Some(true) {
                    off.insert(name);
                } else {
                    // As in istiod: whatever is said of single metrics brings all of them back.
                    off.remove(name);
                    plan.lay_over(of);
                }
            }
        }
    }
    plans.retain(|name, _| !off.contains(name));
    plans
}

impl ReportedMetrics {
    fn lay_over(&mut self, written: &MetricsOverride) {
        let all = || METRICS.iter().map(|(name, _)| SmolStr::new_static(name)).collect();
        let metrics: Vec<SmolStr> = written.metric.clone().map_or_else(all, |metric| vec![metric]);
        for metric in metrics {
            let known = self.overrides.entry(metric).or_default();
            known.disabled = written.disabled.unwrap_or(known.disabled);
            known.tags.extend(written.tags.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::istio::WorkloadMode;

    fn of(metric: Option<&str>, disabled: Option<bool>, tags: &[(&str, Option<&str>)]) -> MetricsOverride {
        let tags = tags.iter().map(|(name, value)| (SmolStr::new(name), value.map(SmolStr::new))).collect();
        MetricsOverride { metric: metric.map(SmolStr::new), mode: WorkloadMode::ClientAndServer, disabled, tags }
    }

    fn entry(providers: &[&str], overrides: Vec<MetricsOverride>) -> Metrics {
        Metrics { providers: providers.iter().map(SmolStr::new).collect(), overrides, reporting_interval: None }
    }

    fn shown(defaults: &[&str], entries: &[Metrics], side: Side) -> Vec<String> {
        let defaults: Vec<SmolStr> = defaults.iter().map(SmolStr::new).collect();
        let entries: Vec<&Metrics> = entries.iter().collect();
        let of_metric = |(name, of): (&SmolStr, &MetricOverride)| {
            let tags: Vec<String> = of.tags.iter().map(|(tag, value)| format!("{tag}={}", value.as_deref().unwrap_or("-"))).collect();
            format!("{name}{}{}", if of.disabled { " off " } else { " " }, tags.join(","))
        };
        let show = |(name, plan): (&SmolStr, ReportedMetrics)| {
            let overrides: Vec<String> = plan.overrides.iter().map(of_metric).collect();
            format!("{name}: {}", overrides.join("; "))
        };
        merged(&defaults, &entries, side).into_iter().map(show).collect()
    }

    use Side::{Client, Server};

    #[test]
    fn the_default_providers_count_where_nothing_is_said() {
        assert_eq!(shown(&["prometheus"], &[], Client), ["prometheus: "]);
        assert_eq!(shown(&["prometheus"], &[entry(&[], vec![])], Client), ["prometheus: "]);
        assert_eq!(shown(&["prometheus"], &[entry(&["other"], vec![])], Client), ["other: "]);
    }

    #[test]
    fn overrides_are_laid_over_one_another() {
        let wide = entry(&["p"], vec![of(Some("REQUEST_COUNT"), None, &[("a", Some("1")), ("b", None)])]);
        let narrow = entry(&[], vec![of(Some("REQUEST_COUNT"), Some(true), &[("a", None)]), of(Some("own"), None, &[("c", Some("2"))])]);
        assert_eq!(shown(&[], &[wide, narrow], Server), ["p: REQUEST_COUNT off a=-,b=-; own c=2"]);
        let all = shown(&["p"], &[entry(&[], vec![of(None, None, &[("a", None)])])], Client);
        assert!(all[0].starts_with("p: GRPC_REQUEST_MESSAGES a=-; ") && all[0].matches("a=-").count() == METRICS.len(), "{all:?}");
    }

    #[test]
    fn all_metrics_off_takes_the_provider_away_until_something_is_said_of_one() {
        let off = || of(None, Some(true), &[]);
        assert_eq!(shown(&["p"], &[entry(&[], vec![off()])], Client), [""; 0]);
        let back = entry(&[], vec![of(Some("REQUEST_COUNT"), Some(false), &[])]);
        assert_eq!(shown(&["p"], &[entry(&[], vec![off()]), back], Client), ["p: REQUEST_COUNT "]);
        let of_server = MetricsOverride { mode: WorkloadMode::Server, ..off() };
        let entries = [entry(&["p"], vec![of_server])];
        assert_eq!((shown(&[], &entries, Client), shown(&[], &entries, Server)), (vec!["p: ".to_owned()], vec![]));
    }

    #[test]
    fn a_provider_that_a_narrower_entry_replaces_is_left_out() {
        let entries = [entry(&["a"], vec![of(None, None, &[("t", None)])]), entry(&["b"], vec![])];
        assert_eq!(shown(&["c"], &entries, Client), ["b: "]);
    }
}

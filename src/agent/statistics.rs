//! Lays over Envoy's bootstrap which statistics users want, and how.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::settings::Statistics;
use crate::metric_tags::SCOPE;

/// What stands for the proxy's address in names of statistics.
const ADDRESS: &str = "{pod_ip}";

/// Lays over a bootstrap what users want of Envoy's own statistics. `ips` are the proxy's addresses.
pub(super) fn lay_over(bootstrap: &mut Value, wanted: &Statistics, ips: &[IpAddr]) {
    let config = &mut bootstrap["stats_config"];
    if let Some(tags) = config["stats_tags"].as_array_mut() {
        tags.extend(wanted.tags.iter().map(|tag| json!({ "tag_name": tag, "regex": of_tag(tag) })));
    }
    // Where nothing is left out, there is nothing to include.
    if let Some(patterns) = config.pointer_mut("/stats_matcher/inclusion_list/patterns").and_then(Value::as_array_mut) {
        patterns.extend(included(wanted, ips));
    }
    if !wanted.buckets.is_empty() {
        let settings =
            wanted.buckets.iter().map(|(prefix, buckets)| json!({ "match": { "prefix": as_counted(prefix) }, "buckets": buckets }));
        config["histogram_bucket_settings"] = settings.collect();
    }
    let intervals = [("stats_flush_interval", wanted.flush_interval), ("stats_eviction_interval", wanted.eviction_interval)];
    for (field, interval) in intervals {
        if let Some(interval) = interval {
            bootstrap[field] = format!("{}.{:09}s", interval.as_secs(), interval.subsec_nanos()).into();
        }
    }
}

fn included<'a>(wanted: &'a Statistics, ips: &'a [IpAddr]) -> impl Iterator<Item = Value> + 'a {
    let prefixes = with_addresses(&wanted.prefixes, ips).map(|prefix| json!({ "prefix": prefix }));
    let suffixes = with_addresses(&wanted.suffixes, ips).map(|suffix| json!({ "suffix": suffix }));
    let regexps = with_addresses(&wanted.regexps, ips).map(|regexp| json!({ "safe_regex": { "regex": regexp } }));
    prefixes.chain(suffixes).chain(regexps)
}

/// Returns each pattern, and one that names the proxy's address once for each address.
fn with_addresses<'a>(patterns: &'a [String], ips: &'a [IpAddr]) -> impl Iterator<Item = String> + 'a {
    patterns.iter().flat_map(move |pattern| match pattern.contains(ADDRESS) {
        true => ips.iter().map(|ip| pattern.replace(ADDRESS, &ip.to_string())).collect(),
        false => vec![pattern.clone()],
    })
}

/// Returns what a stock Envoy's histograms begin with where those of Istio's proxy begin with `prefix`: `istiocustom.istio_X` is `istio.X`.
fn as_counted(prefix: &str) -> String {
    let Some(rest) = prefix.strip_prefix("istiocustom") else { return prefix.to_owned() };
    let metric = rest.strip_prefix(".istio_").or(rest.strip_prefix('.')).unwrap_or(rest);
    format!("{SCOPE}.{metric}")
}

/// Returns the form in which names of statistics have such a label, as Istio has it: `name=.=value;.;`.
fn of_tag(tag: &str) -> String {
    let escaped: String =
        tag.chars().flat_map(|letter| (!letter.is_alphanumeric() && letter != '_').then_some('\\').into_iter().chain([letter])).collect();
    format!(r"({escaped}=\.=(.*?);\.;)")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::common_bootstrap::common_bootstrap;

    fn laid_over(wanted: &Statistics) -> Value {
        let mut bootstrap = common_bootstrap();
        bootstrap["stats_config"]["stats_matcher"] = json!({ "inclusion_list": { "patterns": [{ "prefix": "server" }] } });
        lay_over(&mut bootstrap, wanted, &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
        bootstrap
    }

    #[test]
    fn what_is_wanted_comes_beside_what_is_always_there() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let wanted = Statistics {
            prefixes: texts(&["http.{pod_ip}_", "cluster"]),
            suffixes: texts(&["_rq"]),
            regexps: texts(&["vhost\\..*"]),
            tags: texts(&["shard", "a.b"]),
            buckets: [("istio".to_owned(), vec![1.0, 2.5])].into(),
            flush_interval: Some(Duration::from_millis(1500)),
            eviction_interval: Some(Duration::from_secs(60)),
        };
        let bootstrap = laid_over(&wanted);
        let patterns = json!([
            { "prefix": "server" }, { "prefix": "http.10.0.0.1_" }, { "prefix": "http.fd00::1_" }, { "prefix": "cluster" },
            { "suffix": "_rq" }, { "safe_regex": { "regex": "vhost\\..*" } },
        ]);
        assert_eq!(bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"], patterns);
        let tags = bootstrap["stats_config"]["stats_tags"].as_array().unwrap();
        assert!(tags.contains(&json!({ "tag_name": "shard", "regex": r"(shard=\.=(.*?);\.;)" })), "{tags:?}");
        assert!(tags.contains(&json!({ "tag_name": "a.b", "regex": r"(a\.b=\.=(.*?);\.;)" })), "{tags:?}");
        let buckets = json!([{ "match": { "prefix": "istio" }, "buckets": [1.0, 2.5] }]);
        assert_eq!(bootstrap["stats_config"]["histogram_bucket_settings"], buckets);
        assert_eq!(
            (&bootstrap["stats_flush_interval"], &bootstrap["stats_eviction_interval"]),
            (&json!("1.500000000s"), &json!("60.000000000s"))
        );
    }

    #[test]
    fn buckets_of_istios_metrics_are_asked_for_by_the_names_that_istios_proxy_has() {
        for (asked, counted) in [
            ("istiocustom", "istio."),
            ("istiocustom.istio_request_duration", "istio.request_duration"),
            ("istio", "istio"),
            ("cluster.outbound", "cluster.outbound"),
        ] {
            assert_eq!(as_counted(asked), counted);
        }
    }

    #[test]
    fn nothing_is_added_that_nobody_wants() {
        let mut plain = common_bootstrap();
        let before = plain.clone();
        lay_over(&mut plain, &Statistics::default(), &[]);
        assert_eq!(plain, before);
    }
}

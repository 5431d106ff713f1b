//! What users want of Envoy's bootstrap, by ProxyConfig and the pod's annotations.

use std::collections::BTreeMap;

use serde_json::Value;
use smol_str::SmolStr;

use super::environment::Environment;
use crate::{
    agent::settings::{BootstrapOptions, Statistics},
    api::{
        proxy_config::{ProxyConfig, StatsMatcher},
        stats_annotations::StatsAnnotations,
    },
};

/// The metadata and the runtime value by which users limit a proxy's connections.
const CONNECTIONS: &str = "GLOBAL_DOWNSTREAM_MAX_CONNECTIONS";
const CONNECTIONS_IN_RUNTIME: &str = "overload.global_downstream_max_connections";

/// Returns what is asked for. A value that Envoy would not start with is left out, and the log says so.
pub(super) fn of(annotations: &BTreeMap<String, String>, environment: &Environment, config: &ProxyConfig) -> BootstrapOptions {
    BootstrapOptions {
        statistics: statistics(annotations, config),
        runtime: config.runtime_values.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        connections: connections(environment, config),
    }
}

/// Returns which statistics are kept and how. Lists of annotations take the place of ProxyConfig's, tags come beside them.
fn statistics(annotations: &BTreeMap<String, String>, config: &ProxyConfig) -> Statistics {
    let (annotated, wrong) = StatsAnnotations::read(|name| annotations.get(name).map(String::as_str));
    for wrong in wrong {
        tracing::warn!("annotation {}: {}; the value has no effect", wrong.name, wrong.why);
    }
    let StatsMatcher { prefixes, suffixes, regexps } = config.stats_matcher.clone().unwrap_or_default();
    let mut tags = texts(&config.extra_stat_tags);
    for tag in texts(&annotated.extra_tags) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Statistics {
        prefixes: texts(&annotated.prefixes.unwrap_or(prefixes)),
        suffixes: texts(&annotated.suffixes.unwrap_or(suffixes)),
        regexps: texts(&annotated.regexps.unwrap_or(regexps)),
        tags,
        buckets: annotated.buckets,
        flush_interval: annotated.flush_interval,
        eviction_interval: annotated.eviction_interval,
    }
}

/// Copies the texts that are not empty: an empty one would keep everything, and Envoy takes none.
fn texts(list: &[SmolStr]) -> Vec<String> {
    list.iter().filter(|text| !text.is_empty()).map(ToString::to_string).collect()
}

/// Returns how many connections the proxy may have; `None`: any number.
fn connections(environment: &Environment, config: &ProxyConfig) -> Option<u32> {
    let metadata = environment.metadata().ok()?;
    let asked =
        metadata.get(CONNECTIONS).and_then(Value::as_str).or(config.runtime_values.get(CONNECTIONS_IN_RUNTIME).map(SmolStr::as_str))?;
    let limit = asked.parse().ok().filter(|limit| (1..=i32::MAX as u32).contains(limit));
    if limit.is_none() {
        tracing::warn!("{CONNECTIONS}: {asked:?} is no number of connections; there is no limit");
    }
    limit
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::environment::tests::environment, *};
    use crate::api::parse_proxy_config;

    fn of(annotations: &[(&str, &str)], config: &Value, variables: &[(&str, &str)]) -> BootstrapOptions {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        super::of(&annotations, &environment(variables), &parse_proxy_config(config).unwrap().0)
    }

    #[test]
    fn a_list_of_an_annotation_takes_the_place_of_that_of_proxy_config() {
        let matcher = json!({"inclusionPrefixes": ["a", ""], "inclusionSuffixes": ["b"], "inclusionRegexps": ["c.*"]});
        let config = json!({"proxyStatsMatcher": matcher, "extraStatTags": ["one", "two"]});
        let annotations = [
            ("sidecar.istio.io/statsInclusionPrefixes", "x,y"),
            ("sidecar.istio.io/statsInclusionRegexps", "(z"),
            ("sidecar.istio.io/extraStatTags", "two,three"),
            ("sidecar.istio.io/statsFlushInterval", "never"),
        ];
        let found = of(&annotations, &config, &[]).statistics;
        assert_eq!((found.prefixes, found.suffixes), (vec!["x".to_owned(), "y".to_owned()], vec!["b".to_owned()]));
        assert_eq!((found.regexps.len(), found.flush_interval), (0, None), "what is wrong is left out");
        assert_eq!(found.tags, ["one", "two", "three"]);
        assert_eq!(of(&[], &config, &[]).statistics.prefixes, ["a"]);
    }

    #[test]
    fn connections_are_limited_by_metadata_or_runtime() {
        let runtime = json!({"runtimeValues": {"overload.global_downstream_max_connections": "7"}});
        let variable = |value| [("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", value)];
        assert_eq!(of(&[], &runtime, &[]).connections, Some(7));
        assert_eq!(of(&[], &runtime, &variable("5")).connections, Some(5));
        assert_eq!(of(&[], &json!({}), &variable("many")).connections, None);
        assert_eq!(of(&[], &json!({}), &[]).connections, None);
    }
}

//! Points Prometheus to the agent, which serves Envoy's metrics and the application's together (contract §5.5).

use serde_json::{Map, Value, json};

use super::{
    annotations::Annotations,
    shape::{annotation, container_mut, map_at, set_variable},
    template::PROXY,
    value,
};
use crate::mesh::settings::ProxyDefaults;

/// The variable that says in JSON where the application's own metrics are.
pub(super) const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

const AGENT_PATH: &str = "/stats/prometheus";
const PATH: &str = "prometheus.io/path";
const PORT: &str = "prometheus.io/port";
const SCRAPE: &str = "prometheus.io/scrape";
const PARTS: [(&str, &str); 3] = [(PATH, "path"), (PORT, "port"), (SCRAPE, "scrape")];

/// Returns whether pod and mesh want merged metrics.
pub(super) fn is_wanted(annotations: &Annotations, defaults: &ProxyDefaults) -> bool {
    annotations.merge_metrics.unwrap_or(defaults.prometheus_merge)
}

/// Rewrites the pod's annotations. A pod that is not to be scraped, or that is scraped at the agent already, stays as it is.
pub(super) fn merge(pod: &mut Value, agent_port: u16) {
    let scraped = written(pod, SCRAPE).and_then(|said| value::boolean(said).ok()).unwrap_or(true);
    let port = agent_port.to_string();
    if !scraped || written(pod, PORT).is_some_and(|said| said == port) {
        return;
    }
    let own = PARTS.iter().filter_map(|(name, part)| Some(((*part).to_owned(), json!(written(pod, name)?))));
    let own: Map<String, Value> = own.collect();
    if let Some(proxy) = container_mut(pod, PROXY).filter(|_| !own.is_empty()) {
        set_variable(proxy, VARIABLE, &Value::Object(own).to_string());
    }
    let annotations = map_at(pod, &["metadata", "annotations"]);
    // Prometheus would choose one of several spellings by chance.
    annotations.retain(|name, _| !PARTS.iter().any(|(part, _)| means(name, part)));
    for (name, value) in [(PATH, AGENT_PATH), (PORT, port.as_str()), (SCRAPE, "true")] {
        annotations.insert(name.to_owned(), json!(value));
    }
}

/// Undoes [`merge`] by the value of the variable; `None` if the application had no annotations.
pub(super) fn put_back(pod: &mut Value, agent_port: u16, variable: Option<&str>) {
    let port = agent_port.to_string();
    let ours = [(PATH, AGENT_PATH), (PORT, port.as_str()), (SCRAPE, "true")];
    if ours.iter().any(|(name, value)| annotation(pod, name) != Some(value)) {
        return;
    }
    let own: Map<String, Value> = variable.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let annotations = map_at(pod, &["metadata", "annotations"]);
    for (name, part) in PARTS {
        annotations.remove(name);
        annotations.extend(own.get(part).filter(|value| *value != "").map(|value| (name.to_owned(), value.clone())));
    }
}

/// Returns an annotation in whatever spelling the pod has it; of several the usual one, or else the first.
fn written<'v>(pod: &'v Value, name: &str) -> Option<&'v str> {
    let annotations = pod.get("metadata")?.get("annotations")?.as_object()?;
    let other = || annotations.iter().find(|(spelling, _)| means(spelling, name)).map(|(_, value)| value);
    annotations.get(name).or_else(other)?.as_str()
}

/// Returns whether Prometheus takes two names for the same: it makes an underscore of everything else than letters and digits.
fn means(spelling: &str, name: &str) -> bool {
    let label = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    label(spelling) == label(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(annotations: Value) -> Value {
        let mut pod = json!({"metadata": {"annotations": annotations}, "spec": {"initContainers": [{"name": "istio-proxy"}]}});
        merge(&mut pod, 15020);
        pod
    }

    #[test]
    fn the_applications_metrics_are_told_to_the_agent() {
        let own = json!({"prometheus.io/port": "9090", "prometheus.io/scrape": "true"});
        let mut pod = merged(own.clone());
        let at_the_agent =
            json!({"prometheus.io/port": "15020", "prometheus.io/path": "/stats/prometheus", "prometheus.io/scrape": "true"});
        assert_eq!(pod["metadata"]["annotations"], at_the_agent);
        let variable = pod["spec"]["initContainers"][0]["env"][0]["value"].as_str().unwrap().to_owned();
        assert_eq!(variable, r#"{"port":"9090","scrape":"true"}"#);
        put_back(&mut pod, 15020, Some(&variable));
        assert_eq!(pod["metadata"]["annotations"], own);
    }

    #[test]
    fn every_spelling_counts() {
        let pod = merged(json!({"prometheus.io.port": "9090", "prometheus-io/path": "/own"}));
        let at_the_agent =
            json!({"prometheus.io/port": "15020", "prometheus.io/path": "/stats/prometheus", "prometheus.io/scrape": "true"});
        assert_eq!(pod["metadata"]["annotations"], at_the_agent);
        assert_eq!(pod["spec"]["initContainers"][0]["env"][0]["value"], r#"{"path":"/own","port":"9090"}"#);
        let at_the_agent_already = json!({"prometheus_io_port": "15020"});
        assert_eq!(merged(at_the_agent_already.clone())["metadata"]["annotations"], at_the_agent_already);
    }

    #[test]
    fn who_does_not_want_it_is_left_alone() {
        for (name, value) in [("prometheus.io/scrape", "false"), ("prometheus.io.scrape", "false"), ("prometheus_io_scrape", "F")] {
            assert_eq!(merged(json!({name: value}))["metadata"]["annotations"], json!({name: value}));
        }
        let mesh = |prometheus_merge| ProxyDefaults { prometheus_merge, ..ProxyDefaults::default() };
        let pod = |merge_metrics| Annotations { merge_metrics, ..Annotations::default() };
        assert!(is_wanted(&pod(None), &mesh(true)) && is_wanted(&pod(Some(true)), &mesh(false)));
        assert!(!is_wanted(&pod(None), &mesh(false)) && !is_wanted(&pod(Some(false)), &mesh(true)));
    }
}

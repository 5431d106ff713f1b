//! Points Prometheus to the agent, which serves Envoy's metrics and the application's together (contract §5.5).

use serde_json::{Map, Value, json};

use super::{
    annotations::Annotations,
    shape::{annotation, container_mut, map_at, set_variable},
    template::PROXY,
};
use crate::api::mesh_config::MeshConfig;

/// The variable that says in JSON where the application's own metrics are.
pub(super) const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

const PATH: &str = "/stats/prometheus";
const PORT: &str = "prometheus.io/port";
const SCRAPE: &str = "prometheus.io/scrape";
const PARTS: [(&str, &str); 3] = [("prometheus.io/path", "path"), (PORT, "port"), (SCRAPE, "scrape")];

/// Returns whether pod and mesh want merged metrics.
pub(super) fn is_wanted(annotations: &Annotations, mesh: &MeshConfig) -> bool {
    annotations.merge_metrics.unwrap_or(mesh.enable_prometheus_merge)
}

/// Rewrites the pod's annotations. A pod that is not to be scraped, or that is scraped at the agent already, stays as it is.
pub(super) fn merge(pod: &mut Value, agent_port: u16) {
    let scraped = annotation(pod, SCRAPE).is_none_or(|said| said != "false");
    let port = agent_port.to_string();
    if !scraped || annotation(pod, PORT) == Some(&port) {
        return;
    }
    let own = PARTS.iter().filter_map(|(name, part)| Some(((*part).to_owned(), json!(annotation(pod, name)?))));
    let own: Map<String, Value> = own.collect();
    if let Some(proxy) = container_mut(pod, PROXY).filter(|_| !own.is_empty()) {
        set_variable(proxy, VARIABLE, &Value::Object(own).to_string());
    }
    let annotations = map_at(pod, &["metadata", "annotations"]);
    for (name, value) in [("prometheus.io/path", PATH), (PORT, port.as_str()), (SCRAPE, "true")] {
        annotations.insert(name.to_owned(), json!(value));
    }
}

/// Undoes [`merge`] by the value of the variable; `None` if the application had no annotations.
pub(super) fn put_back(pod: &mut Value, agent_port: u16, variable: Option<&str>) {
    let port = agent_port.to_string();
    let ours = [("prometheus.io/path", PATH), (PORT, port.as_str()), (SCRAPE, "true")];
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
    fn who_does_not_want_it_is_left_alone() {
        let unscraped = json!({"prometheus.io/scrape": "false"});
        assert_eq!(merged(unscraped.clone())["metadata"]["annotations"], unscraped);
        let mesh = |enable| MeshConfig { enable_prometheus_merge: enable, ..MeshConfig::default() };
        let pod = |merge_metrics| Annotations { merge_metrics, ..Annotations::default() };
        assert!(is_wanted(&pod(None), &mesh(true)) && is_wanted(&pod(Some(true)), &mesh(false)));
        assert!(!is_wanted(&pod(None), &mesh(false)) && !is_wanted(&pod(Some(false)), &mesh(true)));
    }
}

//! Prometheus is sent to the agent, which shows Envoy's metrics and the application's together (contract §5.5).

use serde_json::{Map, Value, json};

use super::{
    annotations::Annotations,
    shape::{annotation, container_mut, map_at, set_variable},
    template::PROXY,
};
use crate::api::mesh_config::MeshConfig;

/// JSON: where the application's own metrics are.
pub(super) const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

const PATH: &str = "/stats/prometheus";
const PORT: &str = "prometheus.io/port";
const SCRAPE: &str = "prometheus.io/scrape";
const PARTS: [(&str, &str); 3] = [("prometheus.io/path", "path"), (PORT, "port"), (SCRAPE, "scrape")];

/// Rewrites the pod's annotations, if mesh and pod want that.
pub(super) fn merge(pod: &mut Value, agent_port: u16, annotations: &Annotations, mesh: &MeshConfig) {
    let wanted = annotations.merge_metrics.unwrap_or(mesh.enable_prometheus_merge);
    let scraped = annotation(pod, SCRAPE).is_none_or(|said| said != "false");
    let port = agent_port.to_string();
    if !wanted || !scraped || annotation(pod, PORT) == Some(&port) {
        return;
    }
    let said = PARTS.iter().filter_map(|(name, part)| Some(((*part).to_owned(), json!(annotation(pod, name)?))));
    let said: Map<String, Value> = said.collect();
    if let Some(proxy) = container_mut(pod, PROXY).filter(|_| !said.is_empty()) {
        set_variable(proxy, VARIABLE, &Value::Object(said).to_string());
    }
    let annotations = map_at(pod, &["metadata", "annotations"]);
    for (name, value) in [("prometheus.io/path", PATH), (PORT, port.as_str()), (SCRAPE, "true")] {
        annotations.insert(name.to_owned(), json!(value));
    }
}

/// Undoes it by the variable's value; `None`: the application had no metrics.
pub(super) fn put_back(pod: &mut Value, agent_port: u16, said: Option<&str>) {
    let at_the_agent = annotation(pod, "prometheus.io/path") == Some(PATH) && annotation(pod, PORT) == Some(&agent_port.to_string());
    if !at_the_agent {
        return;
    }
    let said: Map<String, Value> = said.and_then(|said| serde_json::from_str(said).ok()).unwrap_or_default();
    let annotations = map_at(pod, &["metadata", "annotations"]);
    for (name, part) in PARTS {
        annotations.remove(name);
        annotations.extend(said.get(part).filter(|value| *value != "").map(|value| (name.to_owned(), value.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(annotations: Value, mesh: bool) -> Value {
        let mut pod = json!({"metadata": {"annotations": annotations}, "spec": {"initContainers": [{"name": "istio-proxy"}]}});
        let mesh = MeshConfig { enable_prometheus_merge: mesh, ..MeshConfig::default() };
        merge(&mut pod, 15020, &Annotations::default(), &mesh);
        pod
    }

    #[test]
    fn the_applications_metrics_are_told_to_the_agent() {
        let own = json!({"prometheus.io/port": "9090", "prometheus.io/scrape": "true"});
        let mut pod = merged(own.clone(), true);
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
        for (annotations, mesh) in [(json!({}), false), (json!({"prometheus.io/scrape": "false"}), true)] {
            assert_eq!(merged(annotations.clone(), mesh)["metadata"]["annotations"], annotations);
        }
    }
}

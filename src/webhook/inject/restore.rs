//! Restores a pod as it was before it was injected. Every injection begins with this, so that injecting twice equals injecting
//! once, and a pod that another version or istiod injected gets the proxy of this one.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    merge::Added,
    probes, prometheus,
    shape::{CONTAINER_LISTS, annotation, container_mut, list_of, map_at, name_of, take, variable},
    template::PROXY,
};

/// The annotation with the names of what an injection added, in istiod's form.
pub const STATUS: &str = "sidecar.istio.io/status";
/// The annotation with the user's containers that were merged with the template's, as they were.
const OVERRIDES: &str = "proxy.istio.io/overrides";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InjectionStatus {
    init_containers: Option<Vec<String>>,
    containers: Option<Vec<String>>,
    volumes: Option<Vec<String>>,
    image_pull_secrets: Option<Vec<String>>,
}

/// Records what was added.
pub(super) fn record(pod: &mut Value, added: &Added, revision: &str) {
    let list = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
    let status = json!({
        "initContainers": list(&added.init_containers),
        "containers": list(&added.containers),
        "volumes": list(&added.volumes),
        "imagePullSecrets": list(&added.image_pull_secrets),
        "revision": revision,
    });
    let annotations = map_at(pod, &["metadata", "annotations"]);
    annotations.insert(STATUS.to_owned(), Value::String(status.to_string()));
    // One that is there without an injection means nothing.
    annotations.remove(OVERRIDES);
    if !added.overridden.is_empty() {
        annotations.insert(OVERRIDES.to_owned(), Value::String(Value::Object(added.overridden.clone()).to_string()));
    }
}

/// Returns the pod without what an injection added and changed. A pod that was not injected is returned as it is. `metrics_port`
/// is the agent's port if Prometheus was pointed to it.
pub(super) fn restore(pod: &Value, metrics_port: Option<u16>) -> Value {
    let mut pod = pod.clone();
    let Some(status) = annotation(&pod, STATUS).and_then(|text| serde_json::from_str::<InjectionStatus>(text).ok()) else { return pod };
    let proxy = container_mut(&mut pod, PROXY).cloned().unwrap_or_default();
    let overrides = annotation(&pod, OVERRIDES).and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());

    take_all(&mut pod, "initContainers", status.init_containers);
    take_all(&mut pod, "containers", status.containers);
    take_all(&mut pod, "volumes", status.volumes);
    take_all(&mut pod, "imagePullSecrets", status.image_pull_secrets);
    put_back(&mut pod, overrides.unwrap_or_default());
    if let Some(probers) = variable(&proxy, probes::VARIABLE) {
        probes::put_back(&mut pod, probers);
    }
    if let Some(port) = metrics_port {
        prometheus::put_back(&mut pod, port, variable(&proxy, prometheus::VARIABLE));
    }
    let annotations = map_at(&mut pod, &["metadata", "annotations"]);
    annotations.remove(STATUS);
    annotations.remove(OVERRIDES);
    pod
}

fn take_all(pod: &mut Value, list: &str, names: Option<Vec<String>>) {
    let taken = names.unwrap_or_default().iter().filter(|name| take(pod, list, name).is_some()).count();
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut)
        && taken > 0
        && spec.get(list).and_then(Value::as_array).is_some_and(Vec::is_empty)
    {
        spec.remove(list);
    }
}

fn put_back(pod: &mut Value, overrides: Map<String, Value>) {
    for list in CONTAINER_LISTS {
        let Some(Value::Array(containers)) = overrides.get(list) else { continue };
        let present = list_of(pod, list);
        for container in containers.iter().filter(|container| container.is_object()) {
            if !present.iter().any(|other| name_of(other) == name_of(container)) {
                present.push(container.clone());
            }
        }
    }
}

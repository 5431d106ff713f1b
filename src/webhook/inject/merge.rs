//! Merges a rendered template into a pod. What the user wrote takes precedence: a container with the name of a template's
//! container completes or changes it, and volumes and secrets of the same name stay the user's.

use serde_json::{Map, Value, json};

use super::{
    shape::{CONTAINER_LISTS, list_of, map_at, name_of, take},
    value,
};

/// The image of a user's `istio-proxy` container that stands for the template's image.
pub(super) const AUTO_IMAGE: &str = "auto";

/// The names of what was added. They are recorded in `sidecar.istio.io/status`, so that it can be removed again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) init_containers: Vec<String>,
    pub(super) containers: Vec<String>,
    pub(super) volumes: Vec<String>,
    pub(super) image_pull_secrets: Vec<String>,
    /// The user's containers that were merged with the template's, by the list that they were in.
    pub(super) overridden: Map<String, Value>,
    /// What of the template was left out, since the user's contradicts it.
    pub(super) left_out: Vec<String>,
}

/// Merges `template` (a pod as JSON) into `pod`.
pub(super) fn merge(pod: &mut Value, template: Value) -> Added {
    let mut added = Added::default();
    for field in ["labels", "annotations"] {
        let entries = template.pointer(&format!("/metadata/{field}")).and_then(Value::as_object).cloned();
        map_at(pod, &["metadata", field]).extend(entries.unwrap_or_default());
    }
    let elements = |list: &str| template.pointer(&format!("/spec/{list}")).and_then(Value::as_array).cloned().unwrap_or_default();
    let init = elements("initContainers").into_iter().map(|container| completed(pod, container, &mut added)).collect::<Vec<_>>();
    let main = elements("containers").into_iter().map(|container| completed(pod, container, &mut added)).collect::<Vec<_>>();
    added.init_containers = init.iter().map(|container| name_of(container).to_owned()).collect();
    added.containers = main.iter().map(|container| name_of(container).to_owned()).collect();
    if !init.is_empty() {
        // Before the user's own init containers, so that these are in the mesh, too.
        list_of(pod, "initContainers").splice(0..0, init);
    }
    if !main.is_empty() {
        list_of(pod, "containers").extend(main);
    }
    added.volumes = add_missing(pod, "volumes", elements("volumes"));
    added.image_pull_secrets = add_missing(pod, "imagePullSecrets", elements("imagePullSecrets"));
    add_sysctls(pod, template.pointer("/spec/securityContext/sysctls"));
    added
}

/// Returns the template's container with the user's of the same name merged into it, which is taken out of the pod.
fn completed(pod: &mut Value, mut container: Value, added: &mut Added) -> Value {
    let name = name_of(&container).to_owned();
    let own = CONTAINER_LISTS.into_iter().find_map(|list| take(pod, list, &name).map(|own| (list, own)));
    if let Some((list, own)) = own {
        overlay_container(&mut container, &own);
        added.left_out.extend(yield_resources(&mut container, &own));
        if let Value::Array(kept) = added.overridden.entry(list).or_insert_with(|| json!([])) {
            kept.push(own);
        }
    }
    container
}

fn overlay_container(container: &mut Value, own: &Value) {
    let automatic = own.get("image").and_then(Value::as_str) == Some(AUTO_IMAGE);
    let Value::Object(fields) = own else { return };
    for (field, value) in fields {
        let target = map_at(container, &[]);
        match field.as_str() {
            _ if value.is_null() || is_empty(value) => {}
            "image" if automatic => {}
            // The API server's default for an image without a tag, which `auto` is.
            "imagePullPolicy" if automatic && value == "Always" => {}
            "env" => overlay_list(target, field, value, &["name"]),
            "ports" => overlay_list(target, field, value, &["containerPort", "protocol"]),
            "volumeMounts" => overlay_list(target, field, value, &["mountPath"]),
            "livenessProbe" | "readinessProbe" | "startupProbe" => {
                overlay_action(target.entry(field.as_str()).or_insert(Value::Null), value)
            }
            "lifecycle" => {
                for (moment, action) in value.as_object().into_iter().flatten() {
                    overlay_action(map_at(container, &["lifecycle"]).entry(moment).or_insert(Value::Null), action);
                }
            }
            "securityContext" | "resources" => overlay(target.entry(field.as_str()).or_insert(Value::Null), value),
            _ => {
                target.insert(field.clone(), value.clone());
            }
        }
    }
}

/// Leaves out requests of the template above limits of the user, and limits of the template below requests of the user, with
/// which the API server would refuse the pod.
fn yield_resources(container: &mut Value, own: &Value) -> Vec<String> {
    let name = name_of(container).to_owned();
    let mut left_out = Vec::new();
    for (ours, theirs) in [("requests", "limits"), ("limits", "requests")] {
        let wanted = own.pointer(&format!("/resources/{theirs}")).and_then(Value::as_object);
        let own = own.pointer(&format!("/resources/{ours}"));
        for (resource, limit) in wanted.into_iter().flatten() {
            let list = container.pointer_mut(&format!("/resources/{ours}")).and_then(Value::as_object_mut);
            let Some(list) = list.filter(|_| own.is_none_or(|own| own.get(resource).is_none())) else { continue };
            let contradicts = list.get(resource).is_some_and(|default| match ours {
                "requests" => exceeds(default, limit),
                _ => exceeds(limit, default),
            });
            if contradicts && let Some(default) = list.remove(resource) {
                let default = shown(&default);
                left_out.push(format!(
                    "container {name}: {ours}.{resource} {default} of the template is left out, since it contradicts {theirs}"
                ));
            }
        }
    }
    left_out
}

fn exceeds(quantity: &Value, other: &Value) -> bool {
    match (value::amount(&shown(quantity)), value::amount(&shown(other))) {
        (Some(quantity), Some(other)) => quantity > other,
        _ => false,
    }
}

/// Returns a quantity as text, which may be written as a number.
fn shown(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned)
}

/// Merges maps field by field, and replaces anything else.
fn overlay(target: &mut Value, own: &Value) {
    match (target, own) {
        (Value::Object(target), Value::Object(own)) => {
            own.iter().for_each(|(field, value)| overlay(target.entry(field).or_insert(Value::Null), value));
        }
        (_, Value::Null) => {}
        (target, own) => *target = own.clone(),
    }
}

/// Merges a probe or hook. If the user's has an action, it replaces ours as a whole, so that what it leaves out is Kubernetes'
/// default and not ours.
fn overlay_action(target: &mut Value, own: &Value) {
    const WAYS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    if WAYS.iter().any(|way| own.get(way).is_some()) { *target = own.clone() } else { overlay(target, own) }
}

/// Merges lists by the keys of their elements. An element of the user replaces ours as a whole, since a variable has a value or a
/// source, not both.
fn overlay_list(target: &mut Map<String, Value>, field: &str, own: &Value, keys: &[&str]) {
    let Value::Array(elements) = target.entry(field).or_insert_with(|| json!([])) else { return };
    for element in own.as_array().into_iter().flatten() {
        let same = |other: &Value| keys.iter().all(|key| key_of(other, key) == key_of(element, key));
        match elements.iter_mut().find(|other| same(other)) {
            Some(other) => *other = element.clone(),
            None => elements.push(element.clone()),
        }
    }
}

fn key_of<'v>(element: &'v Value, key: &str) -> Option<&'v Value> {
    let value = element.get(key);
    // The API server's default.
    value.filter(|value| !(key == "protocol" && *value == "TCP"))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Adds the elements that the pod does not have yet, and returns their names.
fn add_missing(pod: &mut Value, list: &str, elements: Vec<Value>) -> Vec<String> {
    if elements.is_empty() {
        return Vec::new();
    }
    let present = list_of(pod, list);
    let missing: Vec<Value> =
        elements.into_iter().filter(|element| !present.iter().any(|other| name_of(other) == name_of(element))).collect();
    let names = missing.iter().map(|element| name_of(element).to_owned()).collect();
    present.extend(missing);
    names
}

fn add_sysctls(pod: &mut Value, sysctls: Option<&Value>) {
    let Some(Value::Array(sysctls)) = sysctls else { return };
    let present = map_at(pod, &["spec", "securityContext"]).entry("sysctls").or_insert_with(|| json!([]));
    let Value::Array(present) = present else { return };
    for sysctl in sysctls {
        if !present.iter().any(|other| name_of(other) == name_of(sysctl)) {
            present.push(sysctl.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_container_completes_the_templates() {
        let template = json!({"spec": {"containers": [{
            "name": "istio-proxy", "image": "ours", "args": ["a"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 15090, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": 15021}, "periodSeconds": 15},
            "startupProbe": {"httpGet": {"port": 15021}, "periodSeconds": 1},
        }]}});
        let mut pod = json!({"spec": {"containers": [{
            "name": "istio-proxy", "image": "auto", "imagePullPolicy": "Always", "args": [],
            "env": [{"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "C", "value": "3"}],
            "ports": [{"containerPort": 15090, "name": "metrics"}, {"containerPort": 8080}],
            "resources": {"limits": {"cpu": "4"}},
            "readinessProbe": {"exec": {"command": ["true"]}}, "startupProbe": {"periodSeconds": 2},
            "stdin": true,
        }]}});
        let added = merge(&mut pod, template);
        let expected = json!({
            "name": "istio-proxy", "image": "ours", "args": ["a"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "C", "value": "3"}],
            "ports": [{"containerPort": 15090, "name": "metrics"}, {"containerPort": 8080}],
            "resources": {"limits": {"cpu": "4", "memory": "1Gi"}},
            "readinessProbe": {"exec": {"command": ["true"]}}, "startupProbe": {"httpGet": {"port": 15021}, "periodSeconds": 2},
            "stdin": true,
        });
        assert_eq!(pod["spec"]["containers"], json!([expected]));
        assert_eq!(added.containers, ["istio-proxy"]);
        assert_eq!(added.overridden["containers"][0]["image"], "auto");
    }

    #[test]
    fn resources_that_contradict_the_users_are_left_out() {
        let default = json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        let merged = |own: Value| {
            let mut container = json!({"resources": default});
            let own = json!({"resources": own});
            overlay_container(&mut container, &own);
            let left_out = yield_resources(&mut container, &own).len();
            (container["resources"].take(), left_out)
        };
        let of = |requests: Value, limits: Value| json!({"requests": requests, "limits": limits});
        let (none, memory) = (json!({}), json!({"memory": "1Gi"}));
        let by_name = of(json!({"cpu": "100m", "memory": "128Mi"}), json!({"cpu": "3", "memory": "1Gi"}));
        assert_eq!(merged(of(none.clone(), json!({"cpu": "3"}))), (by_name, 0));
        let request = of(json!({"cpu": 4, "memory": "128Mi"}), memory);
        assert_eq!(merged(of(json!({"cpu": 4}), none.clone())), (request, 1));
        let limit = of(json!({"cpu": "100m"}), json!({"cpu": "2", "memory": "64Mi"}));
        assert_eq!(merged(of(none, json!({"memory": "64Mi"}))), (limit, 1));
        let both = of(json!({"cpu": "4", "memory": "128Mi"}), json!({"cpu": "3", "memory": "1Gi"}));
        assert_eq!(merged(of(json!({"cpu": "4"}), json!({"cpu": "3"}))), (both, 0));
    }

    #[test]
    fn volumes_of_the_user_stay() {
        let mut pod = json!({"spec": {"volumes": [{"name": "istio-token", "emptyDir": {}}]}});
        let added = merge(&mut pod, json!({"spec": {"volumes": [{"name": "istio-token", "projected": {}}, {"name": "b"}]}}));
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "istio-token", "emptyDir": {}}, {"name": "b"}]));
        assert_eq!(added.volumes, ["b"]);
    }
}

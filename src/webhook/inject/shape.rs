//! Finds and changes parts of a pod's document, which stays JSON so that fields that this build does not know are not lost.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A map of labels or annotations.
pub(super) type StringMap = BTreeMap<String, String>;

/// The lists of containers in `spec`.
pub(super) const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

/// Returns the map at a path of fields. A map is made where there is none.
pub(super) fn map_at<'v>(value: &'v mut Value, path: &[&str]) -> &'v mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match (value, path) {
        (Value::Object(map), []) => map,
        (Value::Object(map), [field, rest @ ..]) => map_at(map.entry(*field).or_insert(Value::Null), rest),
        _ => unreachable!("made a map above"),
    }
}

/// Returns the list of this name in `spec`. A list is made if there is none.
pub(super) fn list_of<'v>(pod: &'v mut Value, name: &str) -> &'v mut Vec<Value> {
    let list = map_at(pod, &["spec"]).entry(name).or_insert(Value::Null);
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    match list {
        Value::Array(list) => list,
        _ => unreachable!("made a list above"),
    }
}

/// Returns all containers, init containers first.
pub(super) fn containers_mut(pod: &mut Value) -> impl Iterator<Item = &mut Value> {
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    let lists = spec.into_iter().flat_map(|spec| spec.iter_mut()).filter(|(name, _)| CONTAINER_LISTS.contains(&name.as_str()));
    // A JSON map is sorted, so "containers" would come first.
    let mut lists: Vec<_> = lists.collect();
    lists.sort_by_key(|(name, _)| name.as_str() == "containers");
    lists.into_iter().filter_map(|(_, list)| list.as_array_mut()).flatten()
}

/// Returns all containers, to look at.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = CONTAINER_LISTS.into_iter().filter_map(|list| pod.get("spec")?.get(list)?.as_array());
    lists.flatten()
}

/// Returns the container of this name in either list.
pub(super) fn container_mut<'v>(pod: &'v mut Value, name: &str) -> Option<&'v mut Value> {
    containers_mut(pod).find(|container| name_of(container) == name)
}

/// Returns field `name`.
pub(super) fn name_of(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Removes the element of this name from a list in `spec`, and returns it.
pub(super) fn take(pod: &mut Value, list: &str, name: &str) -> Option<Value> {
    let elements = pod.get_mut("spec")?.get_mut(list)?.as_array_mut()?;
    let at = elements.iter().position(|element| name_of(element) == name)?;
    Some(elements.remove(at))
}

/// Sets a variable of a container, unless it is set already.
pub(super) fn set_variable(container: &mut Value, name: &str, value: &str) {
    let variables = map_at(container, &[]).entry("env").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(variables) = variables
        && !variables.iter().any(|variable| name_of(variable) == name)
    {
        variables.push(serde_json::json!({"name": name, "value": value}));
    }
}

/// Returns the value of a container's variable.
pub(super) fn variable<'v>(container: &'v Value, name: &str) -> Option<&'v str> {
    let variables = container.get("env")?.as_array()?;
    variables.iter().find(|variable| name_of(variable) == name)?.get("value")?.as_str()
}

/// Returns the value of an annotation.
pub(super) fn annotation<'v>(pod: &'v Value, name: &str) -> Option<&'v str> {
    pod.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

/// Returns the map of texts at a pointer; labels, say.
pub(super) fn string_map(object: &Value, at: &str) -> StringMap {
    let entries = object.pointer(at).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

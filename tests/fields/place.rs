//! Puts values into documents at the paths of a schema.

use serde_json::{Map, Value};

/// Puts a value at a path. Maps and lists on the way are made, of a list the first element is taken, and `key` stands for `*`.
pub(crate) fn put(document: &mut Value, path: &str, key: &str, value: Value) {
    *slot(document, path, key) = value;
}

/// Returns what stands at a path.
pub(crate) fn get<'v>(document: &'v Value, path: &str, key: &str) -> Option<&'v Value> {
    path.split('.').try_fold(document, |at, segment| {
        let (name, is_list) = segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
        let found = at.get(if name == "*" { key.to_owned() } else { name.replace('~', ".") })?;
        if is_list { found.get(0) } else { Some(found) }
    })
}

/// Adds an element to the list at a path, which has some.
pub(crate) fn append(document: &mut Value, path: &str, key: &str, element: Value) {
    if let Some(elements) = slot(document, path, key).as_array_mut() {
        elements.push(element);
    }
}

/// Makes the message at a path, unless something stands there.
pub(super) fn make(document: &mut Value, path: &str, key: &str) {
    let slot = slot(document, path, key);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
}

/// Lays `patch` over the message at a path: maps are merged, `null` removes, everything else replaces.
pub(super) fn lay_over(document: &mut Value, path: &str, key: &str, patch: &Value) {
    json_patch::merge(slot(document, path, key), patch);
}

/// Returns the path of the message that a field is in.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// Returns whether two paths, of which one is from a finding (`spec.http[0].name`), are the same or one is within the other.
pub(super) fn is_about(found: &str, path: &str, key: &str) -> bool {
    let (found, path) = (plain(found), plain(&path.replace('*', key).replace('~', ".")));
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    within(&found, &path) || within(&path, &found)
}

/// Returns that part of a schema's path that a finding is about.
pub(super) fn within(found: &str, path: &str, key: &str) -> String {
    let depth = plain(found).split('.').count().min(plain(&path.replace('*', key)).split('.').count());
    path.split('.').take(depth).collect::<Vec<_>>().join(".")
}

/// Returns a path without places in lists, with keys of maps as fields, in one spelling.
fn plain(path: &str) -> String {
    let parts = path.split('[').map(|part| part.split_once(']').unwrap_or(("", part)));
    let kept =
        parts.map(|(inner, rest)| if inner.starts_with('"') { format!(".{}{rest}", inner.trim_matches('"')) } else { rest.to_owned() });
    kept.collect::<String>().replace('_', "").to_lowercase()
}

fn slot<'v>(document: &'v mut Value, path: &str, key: &str) -> &'v mut Value {
    path.split('.').fold(document, |at, segment| {
        let (name, is_list) = segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
        let name = if name == "*" { key.to_owned() } else { name.replace('~', ".") };
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let next = at.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
        if !is_list {
            return next;
        }
        if !next.is_array() {
            *next = Value::Array(vec![Value::Null]);
        }
        next.as_array_mut().unwrap().first_mut().expect("a list with an element")
    })
}

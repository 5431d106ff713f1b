//! Merges MeshConfig from two ConfigMaps: one that users share between revisions (`SHARED_MESH_CONFIG`), and ours, which
//! overrides it (contract §7).
//!
//! Each ConfigMap is read and validated by itself, so that a mistake in one leaves its own last good settings in place.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use smol_str::SmolStr;

use crate::{
    api::{self, Kind, Object, ObjectKey},
    source::Change,
};

/// Which of the two ConfigMaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapRole {
    /// The one that `SHARED_MESH_CONFIG` names.
    Shared,
    /// ConfigMap `istio` or `istio-<revision>`.
    Own,
}

/// The documents of both ConfigMaps. Clones share them.
#[derive(Clone)]
pub(super) struct MeshConfigMaps {
    cluster: SmolStr,
    documents: Arc<Mutex<Documents>>,
}

/// The document of one ConfigMap: `None` if it was not read yet, `Some(None)` if there is none.
type ReadDocument = Option<Option<Arc<Value>>>;

#[derive(Default)]
struct Documents {
    shared: ReadDocument,
    own: ReadDocument,
    /// The merged document that was returned last.
    merged: Option<Option<Value>>,
}

/// MeshConfig as both ConfigMaps make it.
pub(super) struct MergedMeshConfig {
    /// The settings; `None` if there is neither ConfigMap.
    pub(super) object: Option<Arc<Object>>,
    /// The same as a change.
    pub(super) change: Change,
}

impl MeshConfigMaps {
    /// Starts without a document of either.
    pub(super) fn new(cluster: SmolStr) -> Self {
        Self { cluster, documents: Arc::default() }
    }

    /// Sets the document of one ConfigMap, `None` if there is none. Returns the merged settings when both were read and the
    /// result differs from the one returned last.
    pub(super) fn set(&self, role: MapRole, document: Option<Arc<Value>>) -> Option<MergedMeshConfig> {
        let mut documents = self.documents.lock();
        match role {
            MapRole::Shared => documents.shared = Some(document),
            MapRole::Own => documents.own = Some(document),
        }
        let (Some(shared), Some(own)) = (&documents.shared, &documents.own) else { return None };
        let now = merge(shared.as_deref(), own.as_deref());
        if documents.merged.as_ref() == Some(&now) {
            return None;
        }
        let object = now.as_ref().and_then(|document| api::parse_mesh_config(document, &self.cluster).objects.pop());
        documents.merged = Some(now);
        let key = ObjectKey { cluster: self.cluster.clone(), kind: Kind::MeshConfig, namespace: SmolStr::default(), name: "istio".into() };
        let change = object.clone().map_or(Change::Deleted(key), Change::Applied);
        Some(MergedMeshConfig { object, change })
    }
}

/// Merges the documents of the shared ConfigMap and of ours. Returns `None` if there is neither.
pub(super) fn merge(shared: Option<&Value>, own: Option<&Value>) -> Option<Value> {
    match (shared, own) {
        (Some(Value::Object(shared)), Some(Value::Object(own))) => Some(Value::Object(merge_fields(shared, own))),
        // An empty document sets nothing.
        (shared, None | Some(Value::Null)) => shared.or(own).cloned(),
        (_, own) => own.cloned(),
    }
}

/// Replaces each field of `lower` that `upper` has, with three exceptions: `defaultConfig` and its `proxyMetadata` are
/// merged field by field, and `trustDomainAliases` and `extensionProviders` become those of both.
fn merge_fields(lower: &Map<String, Value>, upper: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = lower.clone();
    for (name, value) in upper {
        let value = match (name.as_str(), lower.get(name), value) {
            ("defaultConfig" | "proxyMetadata", Some(Value::Object(lower)), Value::Object(upper)) => {
                Value::Object(merge_fields(lower, upper))
            }
            ("trustDomainAliases", Some(Value::Array(lower)), Value::Array(upper)) => union(lower, upper, Value::as_str),
            ("extensionProviders", Some(Value::Array(lower)), Value::Array(upper)) => {
                union(lower, upper, |provider| provider.get("name").and_then(Value::as_str))
            }
            _ => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    merged
}

/// Returns the elements of `lower` whose name `upper` does not have, and then all of `upper`.
fn union<'a>(lower: &'a [Value], upper: &'a [Value], name: impl Fn(&'a Value) -> Option<&'a str>) -> Value {
    let overridden: BTreeSet<_> = upper.iter().filter_map(&name).collect();
    lower.iter().filter(|value| name(value).is_none_or(|name| !overridden.contains(name))).chain(upper).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_own_settings_override_the_shared_ones() {
        let shared = json!({
            "accessLogFile": "/dev/stdout", "trustDomainAliases": ["old", "older"],
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            "extensionProviders": [{"name": "a", "x": 1}, {"name": "b"}],
            "defaultConfig": {"concurrency": 3, "proxyMetadata": {"A": "1", "B": "1"}},
        });
        let own = json!({
            "accessLogFile": "", "trustDomainAliases": ["old", "new"], "extensionProviders": [{"name": "a", "x": 2}],
            "defaultConfig": {"drainDuration": "9s", "proxyMetadata": {"B": "2"}},
        });
        let expected = json!({
            "accessLogFile": "", "trustDomainAliases": ["older", "old", "new"],
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            "extensionProviders": [{"name": "b"}, {"name": "a", "x": 2}],
            "defaultConfig": {"concurrency": 3, "drainDuration": "9s", "proxyMetadata": {"A": "1", "B": "2"}},
        });
        assert_eq!(merge(Some(&shared), Some(&own)), Some(expected));
        assert_eq!(merge(Some(&shared), Some(&Value::Null)), Some(shared.clone()));
        assert_eq!(merge(Some(&shared), None), Some(shared));
        assert_eq!(merge(None, Some(&own)), Some(own));
        assert_eq!(merge(None, None), None);
    }

    #[test]
    fn nothing_is_returned_before_both_were_read_nor_twice() {
        let maps = MeshConfigMaps::new("Kubernetes".into());
        let document = |domain: &str| Some(Arc::new(json!({ "trustDomain": domain })));
        assert!(maps.set(MapRole::Own, None).is_none());
        assert!(maps.set(MapRole::Shared, document("a.example")).is_some_and(|merged| merged.object.is_some()));
        assert!(maps.set(MapRole::Shared, document("a.example")).is_none());
        assert!(maps.set(MapRole::Own, document("b.example")).is_some());
        assert!(maps.set(MapRole::Own, None).is_some());
        let gone = maps.set(MapRole::Shared, None).unwrap();
        assert!(gone.object.is_none() && matches!(gone.change, Change::Deleted(_)));
    }
}

//! Merges MeshConfig from two ConfigMaps: one that users share between revisions (`SHARED_MESH_CONFIG`), and ours, which
//! overrides it (contract §7).
//!
//! Each ConfigMap is read and validated by itself, so that a mistake in one leaves its own last good settings in place.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use smol_str::SmolStr;

use crate::{
    api::{self, Diagnostic, Kind, Object, ObjectKey, Parsed},
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
    /// The last that was good.
    good: Option<Arc<Object>>,
}

/// MeshConfig as both ConfigMaps make it.
pub(super) struct MergedMeshConfig {
    /// The settings; `None` if there is neither ConfigMap.
    pub(super) object: Option<Arc<Object>>,
    /// The same as a change; `None` if the last good settings stay.
    pub(super) change: Option<Change>,
    /// Why the two do not go together.
    pub(super) findings: Vec<Diagnostic>,
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
        let parsed = now.as_ref().map(|document| api::parse_mesh_config(document, &self.cluster));
        documents.merged = Some(now);
        let Some(parsed) = parsed else {
            documents.good = None;
            let key =
                ObjectKey { cluster: self.cluster.clone(), kind: Kind::MeshConfig, namespace: SmolStr::default(), name: "istio".into() };
            return Some(MergedMeshConfig { object: None, change: Some(Change::Deleted(key)), findings: Vec::new() });
        };
        Some(documents.settle(parsed))
    }
}

impl Documents {
    /// Returns the settings of a merged document. Where it is refused although each of the two is right, the last good ones stay,
    /// and without any what closes something.
    fn settle(&mut self, mut parsed: Parsed) -> MergedMeshConfig {
        if let Some(object) = parsed.objects.pop() {
            self.good = Some(Arc::clone(&object));
            // What is doubtful in one ConfigMap is said of it by itself.
            return MergedMeshConfig { change: Some(Change::Applied(Arc::clone(&object))), object: Some(object), findings: Vec::new() };
        }
        let (mut findings, good) = (parsed.diagnostics, self.good.clone());
        let remnant = parsed.refused.pop().and_then(|refused| refused.remnant).filter(|_| good.is_none());
        findings.extend(remnant.iter().map(|remnant| remnant.finding.clone()));
        let change = remnant.as_ref().map(|remnant| Change::Applied(Arc::clone(&remnant.object)));
        MergedMeshConfig { object: good.or(remnant.map(|remnant| remnant.object)), change, findings }
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
    use crate::api::{Spec, istio::OutboundTrafficPolicy};

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
        assert!(gone.object.is_none() && matches!(gone.change, Some(Change::Deleted(_))));
    }

    #[test]
    fn two_that_do_not_go_together_open_nothing() {
        let listen = |name: &str| Some(Arc::new(json!({ name: 16001, "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"} })));
        let is_closed = |merged: &MergedMeshConfig| {
            let Some(Spec::MeshConfig(mesh)) = merged.object.as_ref().map(|object| &object.spec) else { panic!("there are settings") };
            mesh.outbound_traffic_policy == OutboundTrafficPolicy::RegistryOnly
        };
        let maps = MeshConfigMaps::new("Kubernetes".into());
        assert!(maps.set(MapRole::Shared, listen("proxyListenPort")).is_none());
        let never_good = maps.set(MapRole::Own, listen("proxyInboundListenPort")).unwrap();
        assert!(is_closed(&never_good) && matches!(never_good.change, Some(Change::Applied(_))));
        assert_eq!(never_good.findings.len(), 2, "{:?}", never_good.findings);
        let good = maps.set(MapRole::Own, None).unwrap();
        assert!(is_closed(&good) && good.findings.is_empty());
        let refused = maps.set(MapRole::Own, listen("proxyInboundListenPort")).unwrap();
        assert!(refused.change.is_none(), "the last good settings stay");
        assert_eq!((refused.object, refused.findings.len()), (good.object, 1));
    }
}

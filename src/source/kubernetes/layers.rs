//! MeshConfig of two ConfigMaps: one that users share between revisions (`SHARED_MESH_CONFIG`), and ours above it
//! (contract §7).
//!
//! Each is read, judged and kept by itself, so that a mistake in one leaves its own last good settings. What is said is
//! what both say together.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use smol_str::SmolStr;

use crate::{
    api::{self, Kind, Object, ObjectKey},
    source::Change,
};

/// Which of the ConfigMaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// The one that `SHARED_MESH_CONFIG` names.
    Shared,
    /// ConfigMap `istio` or `istio-<revision>`.
    Own,
}

/// What the ConfigMaps say. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(super) struct Layers {
    cluster: SmolStr,
    state: Arc<Mutex<State>>,
}

/// Of a ConfigMap: `None`: it was not read yet; `Some(None)`: there is none.
type Read = Option<Option<Arc<Value>>>;

#[derive(Default)]
struct State {
    shared: Read,
    own: Read,
    told: Option<Option<Value>>,
}

/// What both say together now.
pub(super) struct Together {
    /// The settings; `None`: there is neither.
    pub(super) object: Option<Arc<Object>>,
    /// The same as a change.
    pub(super) change: Change,
}

impl Layers {
    /// Neither was read.
    pub(super) fn new(cluster: SmolStr) -> Self {
        Self { cluster, state: Arc::default() }
    }

    /// This is what one of them says now, if it is there: what both say together, when both were read and that is news.
    pub(super) fn set(&self, layer: Layer, document: Option<Arc<Value>>) -> Option<Together> {
        let mut state = self.state.lock();
        match layer {
            Layer::Shared => state.shared = Some(document),
            Layer::Own => state.own = Some(document),
        }
        let (Some(shared), Some(own)) = (&state.shared, &state.own) else { return None };
        let now = together(shared.as_deref(), own.as_deref());
        if state.told.as_ref() == Some(&now) {
            return None;
        }
        let object = now.as_ref().and_then(|document| api::parse_mesh_config(document, &self.cluster).objects.pop());
        state.told = Some(now);
        let key = ObjectKey { cluster: self.cluster.clone(), kind: Kind::MeshConfig, namespace: SmolStr::default(), name: "istio".into() };
        let change = object.clone().map_or(Change::Deleted(key), Change::Applied);
        Some(Together { object, change })
    }
}

/// What two documents say together, if there is one.
pub(super) fn together(shared: Option<&Value>, own: Option<&Value>) -> Option<Value> {
    match (shared, own) {
        (Some(Value::Object(shared)), Some(Value::Object(own))) => Some(Value::Object(over(shared, own))),
        // An empty document says nothing.
        (shared, None | Some(Value::Null)) => shared.or(own).cloned(),
        (_, own) => own.cloned(),
    }
}

/// Each field of the upper one replaces that of the lower, but the proxies' settings replace each other one by one, and
/// of their `proxyMetadata` each name; aliases of the trust domain and providers are those of both.
fn over(lower: &Map<String, Value>, upper: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = lower.clone();
    for (name, value) in upper {
        let value = match (name.as_str(), lower.get(name), value) {
            ("defaultConfig" | "proxyMetadata", Some(Value::Object(lower)), Value::Object(upper)) => Value::Object(over(lower, upper)),
            ("trustDomainAliases", Some(Value::Array(lower)), Value::Array(upper)) => both(lower, upper, Value::as_str),
            ("extensionProviders", Some(Value::Array(lower)), Value::Array(upper)) => {
                both(lower, upper, |provider| provider.get("name").and_then(Value::as_str))
            }
            _ => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    merged
}

/// Those of the lower list which the upper has not, and all of the upper.
fn both<'a>(lower: &'a [Value], upper: &'a [Value], name: impl Fn(&'a Value) -> Option<&'a str>) -> Value {
    let again: BTreeSet<_> = upper.iter().filter_map(&name).collect();
    lower.iter().filter(|value| name(value).is_none_or(|name| !again.contains(name))).chain(upper).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_own_settings_lie_above_the_shared_ones() {
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
        assert_eq!(together(Some(&shared), Some(&own)), Some(expected));
        assert_eq!(together(Some(&shared), Some(&Value::Null)), Some(shared.clone()));
        assert_eq!(together(Some(&shared), None), Some(shared));
        assert_eq!(together(None, Some(&own)), Some(own));
        assert_eq!(together(None, None), None);
    }

    #[test]
    fn nothing_is_said_before_both_were_read_nor_twice() {
        let layers = Layers::new("Kubernetes".into());
        let document = |domain: &str| Some(Arc::new(json!({ "trustDomain": domain })));
        assert!(layers.set(Layer::Own, None).is_none());
        assert!(layers.set(Layer::Shared, document("a.example")).is_some_and(|together| together.object.is_some()));
        assert!(layers.set(Layer::Shared, document("a.example")).is_none());
        assert!(layers.set(Layer::Own, document("b.example")).is_some());
        assert!(layers.set(Layer::Own, None).is_some());
        let gone = layers.set(Layer::Shared, None).unwrap();
        assert!(gone.object.is_none() && matches!(gone.change, Change::Deleted(_)));
    }
}

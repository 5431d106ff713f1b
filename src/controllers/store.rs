//! The objects that a watch has shown. A new list replaces the old one only when it is complete (rule 8).
//!
//! kube's own `reflector::Store` holds whole objects, where controllers need a few fields of each.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// A value for each watched object, by `(namespace, name)`.
#[derive(Debug)]
pub(super) struct WatchStore<V> {
    items: BTreeMap<(String, String), V>,
    list: Option<BTreeMap<(String, String), V>>,
    complete: bool,
}

// === impl WatchStore ===

impl<V> WatchStore<V> {
    /// Makes a store to which no event was applied yet.
    pub(super) fn new() -> Self {
        Self { items: BTreeMap::new(), list: None, complete: false }
    }

    /// Applies one event of the watch; `value` makes the value of an object.
    pub(super) fn apply<K: kube::ResourceExt>(&mut self, event: Event<K>, value: impl Fn(&K) -> V) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => self.list = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                self.list.get_or_insert_default().insert(key(&object), value(&object));
            }
            Event::InitDone => {
                self.items = self.list.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(object) => {
                self.items.insert(key(&object), value(&object));
            }
            Event::Delete(object) => {
                self.items.remove(&key(&object));
            }
        }
    }

    /// Returns whether a complete list was applied.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns the values.
    pub(super) fn items(&self) -> &BTreeMap<(String, String), V> {
        &self.items
    }

    /// Sets the value of an object that was just written, before the watch shows it.
    pub(super) fn set(&mut self, namespace: &str, name: &str, value: V) {
        self.items.insert((namespace.to_owned(), name.to_owned()), value);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn named(name: &str) -> ConfigMap {
        let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("shop".into()), ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn a_list_counts_when_it_is_complete() {
        let mut store = WatchStore::new();
        let names = |store: &WatchStore<()>| store.items().keys().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        store.apply(Event::Init, |_: &ConfigMap| ());
        store.apply(Event::InitApply(named("a")), |_| ());
        assert!(!store.is_complete() && names(&store).is_empty());
        store.apply(Event::<ConfigMap>::InitDone, |_| ());
        store.apply(Event::Apply(named("b")), |_| ());
        assert!(store.is_complete());
        assert_eq!(names(&store), ["a", "b"]);
        store.apply(Event::<ConfigMap>::Init, |_| ());
        assert_eq!(names(&store), ["a", "b"], "a new list begins, and the old one stays");
        store.apply(Event::InitApply(named("c")), |_| ());
        store.apply(Event::<ConfigMap>::InitDone, |_| ());
        assert_eq!(names(&store), ["c"]);
        store.apply(Event::Delete(named("c")), |_| ());
        assert!(names(&store).is_empty());
    }
}

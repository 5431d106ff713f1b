//! What a watch has shown, with a new listing taking the place of the old one only when it is complete (rule 8).

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// The essence of each watched object, by `(namespace, name)`.
#[derive(Debug)]
pub(super) struct Collected<V> {
    items: BTreeMap<(String, String), V>,
    listing: Option<BTreeMap<(String, String), V>>,
    complete: bool,
}

// === impl Collected ===

impl<V> Collected<V> {
    /// Nothing was shown yet.
    pub(super) fn new() -> Self {
        Self { items: BTreeMap::new(), listing: None, complete: false }
    }

    /// Takes one event in; `essence` is what is kept of an object.
    pub(super) fn take<K: kube::ResourceExt>(&mut self, event: Event<K>, essence: impl Fn(&K) -> V) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                self.listing.get_or_insert_default().insert(key(&object), essence(&object));
            }
            Event::InitDone => {
                self.items = self.listing.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(object) => {
                self.items.insert(key(&object), essence(&object));
            }
            Event::Delete(object) => {
                self.items.remove(&key(&object));
            }
        }
    }

    /// Whether all objects that there are were shown.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is known.
    pub(super) fn items(&self) -> &BTreeMap<(String, String), V> {
        &self.items
    }

    /// What we wrote ourselves, before the watch shows it.
    pub(super) fn note(&mut self, namespace: &str, name: &str, essence: V) {
        self.items.insert((namespace.to_owned(), name.to_owned()), essence);
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
    fn a_listing_counts_when_it_is_complete() {
        let mut collected = Collected::new();
        let names = |collected: &Collected<()>| collected.items().keys().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        collected.take(Event::Init, |_: &ConfigMap| ());
        collected.take(Event::InitApply(named("a")), |_| ());
        assert!(!collected.is_complete() && names(&collected).is_empty());
        collected.take(Event::<ConfigMap>::InitDone, |_| ());
        collected.take(Event::Apply(named("b")), |_| ());
        assert!(collected.is_complete());
        assert_eq!(names(&collected), ["a", "b"]);
        collected.take(Event::<ConfigMap>::Init, |_| ());
        assert_eq!(names(&collected), ["a", "b"], "a new listing begins: the old one holds");
        collected.take(Event::InitApply(named("c")), |_| ());
        collected.take(Event::<ConfigMap>::InitDone, |_| ());
        assert_eq!(names(&collected), ["c"]);
        collected.take(Event::Delete(named("c")), |_| ());
        assert!(names(&collected).is_empty());
    }
}

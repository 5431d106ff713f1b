//! The objects of one collection as they were last published, and what changes when more is read. No clock, no socket.
//!
//! The objects themselves are those that the engine holds. Besides a pointer to each, the cache keeps only its name and
//! version.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    num::NonZero,
    sync::Arc,
};

use serde_json::Value;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    decode::{DecodedObject, ObjectName},
    interned::Interned,
};
use crate::{
    api::{self, Diagnostic, Kind, Object, ObjectKey, Severity, yaml},
    source::Change,
};

/// The most findings of one collection. If there are more, a last finding says so.
const MOST_FINDINGS: usize = 1_000;

/// The objects of one collection.
#[derive(Debug)]
pub(super) struct ObjectCache {
    kind: Kind,
    cluster: SmolStr,
    objects: BTreeMap<ObjectName, CachedObject>,
    /// The objects that have findings, so that these can be collected without a walk over all objects.
    with_findings: BTreeSet<ObjectName>,
    /// Findings about objects whose name could not be read.
    nameless: Vec<Diagnostic>,
    findings_changed: bool,
    interned: Interned,
}

/// The objects of a list that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct ObjectListing {
    objects: Vec<(ObjectName, CachedObject)>,
    nameless: Vec<Diagnostic>,
}

/// The last good content of one object (or what holds of it without one), and what is wrong with its newest. Kept small, as there are as many as there are
/// pods.
#[derive(Clone, Debug)]
struct CachedObject {
    /// Hash of `metadata.resourceVersion`, which is only compared; `None` if the object has none.
    version: Option<NonZero<u64>>,
    object: Option<Arc<Object>>,
    flaws: Option<Arc<Flaws>>,
    /// The document that the object was read from. Only kept of MeshConfig, where two documents are merged.
    document: Option<Arc<Value>>,
}

/// What is wrong with an object's newest content.
#[derive(Clone, Debug)]
struct Flaws {
    findings: Vec<Diagnostic>,
    /// Whether the object is only what holds of it although it is refused.
    remnant: bool,
}

impl ObjectCache {
    /// Makes an empty cache for objects of one kind in one cluster.
    pub(super) fn new(kind: Kind, cluster: SmolStr) -> Self {
        Self {
            kind,
            cluster,
            objects: BTreeMap::new(),
            with_findings: BTreeSet::new(),
            nameless: Vec::new(),
            findings_changed: false,
            interned: Interned::default(),
        }
    }

    /// Adds or updates an object, and returns what that changes. An object that is not `wanted` is removed.
    pub(super) fn apply(&mut self, item: DecodedObject, wanted: impl Fn(&Object) -> bool) -> Option<Change> {
        let Some(name) = item.name.clone() else {
            self.nameless.extend(self.nameless_finding(&item));
            self.findings_changed = true;
            return None;
        };
        match self.read(&name, item, wanted) {
            Some(entry) => self.insert(entry.name(name), entry),
            None => self.remove(&name),
        }
    }

    /// Removes an object, and returns what that changes.
    pub(super) fn remove(&mut self, name: &ObjectName) -> Option<Change> {
        let gone = self.objects.remove(name)?;
        self.findings_changed |= self.with_findings.remove(name);
        gone.object.map(|object| Change::Deleted(object.key.clone()))
    }

    /// Reads one object of a list into `listing`, if it is `wanted`. The cache itself stays as it is.
    pub(super) fn read_into(&mut self, listing: &mut ObjectListing, item: DecodedObject, wanted: impl Fn(&Object) -> bool) {
        let Some(name) = item.name.clone() else {
            listing.nameless.extend(self.nameless_finding(&item));
            return;
        };
        if let Some(entry) = self.read(&name, item, wanted) {
            listing.objects.push((entry.name(name), entry));
        }
    }

    /// Replaces all objects by those of a complete list, and returns the differences.
    pub(super) fn replace(&mut self, listing: ObjectListing) -> Vec<Change> {
        self.findings_changed |= self.nameless != listing.nameless;
        self.nameless = listing.nameless;
        // Built in one go, the tree has full nodes; filled entry by entry, they would be half empty.
        let before = mem::replace(&mut self.objects, listing.objects.into_iter().collect());
        let mut changes = Vec::new();
        for (name, entry) in before.iter().filter(|(name, _)| !self.objects.contains_key(*name)) {
            self.findings_changed |= self.with_findings.remove(name);
            changes.extend(entry.object.as_ref().map(|object| Change::Deleted(object.key.clone())));
        }
        for (name, entry) in &self.objects {
            let (changed, findings_changed) = difference(before.get(name), entry);
            self.findings_changed |= findings_changed;
            index_findings(&mut self.with_findings, name, entry);
            changes.extend(changed);
        }
        changes
    }

    /// Adds the objects of a list to those that there are, and returns what that changes.
    pub(super) fn merge(&mut self, listing: ObjectListing) -> Vec<Change> {
        listing.objects.into_iter().filter_map(|(name, entry)| self.insert(name, entry)).collect()
    }

    /// Removes all objects that are not `wanted`, and returns what that changes.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Object) -> bool) -> Vec<Change> {
        let unwanted = |entry: &CachedObject| entry.object.as_ref().is_none_or(|object| !wanted(object));
        let gone: Vec<ObjectName> = self.objects.iter().filter(|(_, entry)| unwanted(entry)).map(|(name, _)| name.clone()).collect();
        gone.iter().filter_map(|name| self.remove(name)).collect()
    }

    /// Returns all objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values().filter_map(|entry| entry.object.as_ref())
    }

    /// Returns the document of the MeshConfig that is in effect, if there is one.
    pub(super) fn document(&self) -> Option<Arc<Value>> {
        self.objects.values().find_map(|entry| entry.document.clone())
    }

    /// Returns all findings if they changed since this was last called.
    pub(super) fn take_changed_findings(&mut self) -> Option<Vec<Diagnostic>> {
        if !mem::take(&mut self.findings_changed) {
            return None;
        }
        let of_objects = self.entries_with_findings().flat_map(|entry| entry.findings().iter());
        let mut findings: Vec<Diagnostic> = self.nameless.iter().chain(of_objects).take(MOST_FINDINGS + 1).cloned().collect();
        if findings.len() > MOST_FINDINGS {
            findings.truncate(MOST_FINDINGS);
            findings.push(Diagnostic::warning("", format!("{}: more findings than {MOST_FINDINGS} are not listed", self.kind)));
        }
        Some(findings)
    }

    /// Counts the objects whose newest content is refused.
    pub(super) fn count_refused(&self) -> usize {
        let is_refused = |entry: &&CachedObject| entry.findings().iter().any(|finding| finding.severity == Severity::Error);
        self.nameless.len() + self.entries_with_findings().filter(is_refused).count()
    }

    fn entries_with_findings(&self) -> impl Iterator<Item = &CachedObject> {
        self.with_findings.iter().filter_map(|name| self.objects.get(name))
    }

    fn insert(&mut self, name: ObjectName, entry: CachedObject) -> Option<Change> {
        let (changed, findings_changed) = difference(self.objects.get(&name), &entry);
        self.findings_changed |= findings_changed;
        index_findings(&mut self.with_findings, &name, &entry);
        self.objects.insert(name, entry);
        changed
    }

    /// Reads an object. If its newest content cannot be read or is refused, the last good content stays, and without one
    /// what holds of it all the same. Returns `None` if the object is not wanted.
    fn read(&mut self, name: &ObjectName, item: DecodedObject, wanted: impl Fn(&Object) -> bool) -> Option<CachedObject> {
        let before = self.objects.get(name);
        let version = NonZero::new(xxh3_64(item.version.as_bytes())).filter(|_| !item.version.is_empty());
        if let Some(before) = before.filter(|before| version.is_some() && before.version == version) {
            return before.object.as_ref().is_none_or(|object| wanted(object)).then(|| before.clone());
        }
        let known = before.and_then(|before| before.object.clone());
        let last_good = known.clone().filter(|_| !before.is_some_and(CachedObject::is_remnant));
        let mut document = before.and_then(|before| before.document.clone());
        let (object, mut findings, refused) = match item.content {
            Ok(value) => {
                let mut parsed = api::parse(&value, &self.cluster);
                if self.kind == Kind::MeshConfig {
                    document = match (mesh_document(&value), last_good.is_some()) {
                        (read, _) if !parsed.objects.is_empty() => read,
                        (_, true) => document,
                        (refused, false) => api::mesh_config_remnant(refused.as_deref()).map(Arc::new),
                    };
                }
                (parsed.objects.pop().map(|object| self.interned.share(object)), parsed.diagnostics, parsed.refused.pop())
            }
            Err(why) => (None, vec![Diagnostic::error("", format!("cannot be read: {why}")).of(&self.key(name))], None),
        };
        let good = object.or(last_good);
        let remnant = refused.and_then(|refused| refused.remnant).filter(|_| good.is_none());
        let is_remnant = remnant.is_some();
        let object = good.or_else(|| {
            let remnant = remnant?;
            findings.push(remnant.finding);
            Some(remnant.object)
        });
        if object.as_ref().is_some_and(|object| !wanted(object)) {
            return None;
        }
        // An equal object is kept as the one that the engine already has, so that its content is in memory once.
        let object = object.map(|new| known.filter(|known| *known == new).unwrap_or(new));
        let flaws = (!findings.is_empty()).then(|| Arc::new(Flaws { findings, remnant: is_remnant }));
        Some(CachedObject { version, object, flaws, document })
    }

    fn key(&self, (namespace, name): &ObjectName) -> ObjectKey {
        ObjectKey { cluster: self.cluster.clone(), kind: self.kind, namespace: namespace.clone(), name: name.clone() }
    }

    fn nameless_finding(&self, item: &DecodedObject) -> Option<Diagnostic> {
        let why = item.content.as_ref().err().map_or("it has no name", String::as_str);
        let full = self.nameless.len() >= MOST_FINDINGS;
        (!full).then(|| Diagnostic::error("", format!("a {} cannot be read: {why}", self.kind)))
    }
}

impl CachedObject {
    fn findings(&self) -> &[Diagnostic] {
        self.flaws.as_ref().map_or(&[], |flaws| &flaws.findings)
    }

    fn is_remnant(&self) -> bool {
        self.flaws.as_ref().is_some_and(|flaws| flaws.remnant)
    }

    /// Returns the name with the text of the object's own key, so that it is in memory once. The key of MeshConfig is not
    /// the name of its ConfigMap.
    fn name(&self, read: ObjectName) -> ObjectName {
        let own = self.object.as_ref().map(|object| (&object.key.namespace, &object.key.name));
        match own {
            Some((namespace, name)) if (namespace, name) == (&read.0, &read.1) => (namespace.clone(), name.clone()),
            _ => read,
        }
    }
}

/// Reads the MeshConfig document out of a ConfigMap.
fn mesh_document(config_map: &Value) -> Option<Arc<Value>> {
    let text = config_map.pointer("/data/mesh").and_then(Value::as_str)?;
    yaml::document(yaml::Document { lines_before: 0, text }).ok().map(Arc::new)
}

/// Returns what an entry changes, and whether its findings changed.
fn difference(before: Option<&CachedObject>, now: &CachedObject) -> (Option<Change>, bool) {
    let object = now.object.as_ref().filter(|object| before.and_then(|before| before.object.as_ref()) != Some(object));
    let findings_changed = before.map_or(&[][..], CachedObject::findings) != now.findings();
    (object.cloned().map(Change::Applied), findings_changed)
}

fn index_findings(with_findings: &mut BTreeSet<ObjectName>, name: &ObjectName, entry: &CachedObject) {
    if entry.flaws.is_none() {
        with_findings.remove(name);
    } else {
        with_findings.insert(name.clone());
    }
}

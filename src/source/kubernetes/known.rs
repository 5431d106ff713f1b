//! What is known of one collection, and what differs when more is learned. No clock, no socket.
//!
//! The objects themselves are those that the engine holds too: beside a pointer to each only its name and version are
//! kept here.

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
    decode::{Item, Name},
    interned::Interned,
};
use crate::{
    api::{self, Diagnostic, Kind, Object, ObjectKey, Severity, yaml},
    source::Change,
};

/// So many findings stand for one collection at most; how many more there are is said.
const MOST_FINDINGS: usize = 1_000;

/// The objects of one collection as they were last told.
#[derive(Debug)]
pub(super) struct Known {
    kind: Kind,
    cluster: SmolStr,
    objects: BTreeMap<Name, Entry>,
    /// Objects with findings, so that these need no look at all objects.
    noted: BTreeSet<Name>,
    /// Findings about objects whose name could not be read.
    nameless: Vec<Diagnostic>,
    findings_changed: bool,
    interned: Interned,
}

/// A list that is being read: it counts when it is complete.
#[derive(Debug, Default)]
pub(super) struct Listing {
    objects: Vec<(Name, Entry)>,
    nameless: Vec<Diagnostic>,
}

/// One object: its last good content, and what is wrong with the newest. There are as many as there are pods.
#[derive(Clone, Debug)]
struct Entry {
    /// Hash of `metadata.resourceVersion`, which is only compared; `None`: it has none.
    version: Option<NonZero<u64>>,
    object: Option<Arc<Object>>,
    findings: Option<Arc<Vec<Diagnostic>>>,
    /// What the object was read from, of MeshConfig alone: two of them make one.
    document: Option<Arc<Value>>,
}

impl Known {
    /// Nothing is known yet.
    pub(super) fn new(kind: Kind, cluster: SmolStr) -> Self {
        Self {
            kind,
            cluster,
            objects: BTreeMap::new(),
            noted: BTreeSet::new(),
            nameless: Vec::new(),
            findings_changed: false,
            interned: Interned::default(),
        }
    }

    /// An object is there, with this content: what that changes.
    pub(super) fn apply(&mut self, item: Item, wanted: impl Fn(&Object) -> bool) -> Option<Change> {
        let Some(name) = item.name.clone() else {
            self.nameless.extend(self.unnamed(&item));
            self.findings_changed = true;
            return None;
        };
        match self.read(&name, item, wanted) {
            Some(entry) => self.put(entry.name(name), entry),
            None => self.remove(&name),
        }
    }

    /// An object is gone: what that changes.
    pub(super) fn remove(&mut self, name: &Name) -> Option<Change> {
        let gone = self.objects.remove(name)?;
        self.findings_changed |= self.noted.remove(name);
        gone.object.map(|object| Change::Deleted(object.key.clone()))
    }

    /// Takes an object of a list that is being read.
    pub(super) fn listed(&mut self, listing: &mut Listing, item: Item, wanted: impl Fn(&Object) -> bool) {
        let Some(name) = item.name.clone() else {
            listing.nameless.extend(self.unnamed(&item));
            return;
        };
        if let Some(entry) = self.read(&name, item, wanted) {
            listing.objects.push((entry.name(name), entry));
        }
    }

    /// The list is complete and is the truth: what that changes.
    pub(super) fn swap(&mut self, listing: Listing) -> Vec<Change> {
        self.findings_changed |= self.nameless != listing.nameless;
        self.nameless = listing.nameless;
        // Made in one go, the table is full; entry by entry it would be half empty.
        let before = mem::replace(&mut self.objects, listing.objects.into_iter().collect());
        let mut changes = Vec::new();
        for (name, entry) in before.iter().filter(|(name, _)| !self.objects.contains_key(*name)) {
            self.findings_changed |= self.noted.remove(name);
            changes.extend(entry.object.as_ref().map(|object| Change::Deleted(object.key.clone())));
        }
        for (name, entry) in &self.objects {
            let (changed, findings_changed) = difference(before.get(name), entry);
            self.findings_changed |= findings_changed;
            note(&mut self.noted, name, entry);
            changes.extend(changed);
        }
        changes
    }

    /// What was listed is there besides what is known: what that changes.
    pub(super) fn add(&mut self, listing: Listing) -> Vec<Change> {
        listing.objects.into_iter().filter_map(|(name, entry)| self.put(name, entry)).collect()
    }

    /// Everything is gone, or no longer wanted: what that changes.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Object) -> bool) -> Vec<Change> {
        let unwanted = |entry: &Entry| entry.object.as_ref().is_none_or(|object| !wanted(object));
        let gone: Vec<Name> = self.objects.iter().filter(|(_, entry)| unwanted(entry)).map(|(name, _)| name.clone()).collect();
        gone.iter().filter_map(|name| self.remove(name)).collect()
    }

    /// The objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values().filter_map(|entry| entry.object.as_ref())
    }

    /// What the settings that stand were read from, of MeshConfig; `None`: there are none.
    pub(super) fn document(&self) -> Option<Arc<Value>> {
        self.objects.values().find_map(|entry| entry.document.clone())
    }

    /// The findings that stand, when they are others than when last asked.
    pub(super) fn new_findings(&mut self) -> Option<Vec<Diagnostic>> {
        if !std::mem::take(&mut self.findings_changed) {
            return None;
        }
        let noted = self.noted.iter().filter_map(|name| self.objects.get(name)).flat_map(|entry| entry.findings().iter());
        let mut findings: Vec<Diagnostic> = self.nameless.iter().chain(noted).take(MOST_FINDINGS + 1).cloned().collect();
        if findings.len() > MOST_FINDINGS {
            findings.truncate(MOST_FINDINGS);
            findings.push(Diagnostic::warning("", format!("{}: more findings than {MOST_FINDINGS} are not listed", self.kind.as_str())));
        }
        Some(findings)
    }

    /// How many objects are refused as they are now.
    pub(super) fn refused(&self) -> usize {
        let is_refused = |entry: &&Entry| entry.findings().iter().any(|finding| finding.severity == Severity::Error);
        self.nameless.len() + self.noted.iter().filter_map(|name| self.objects.get(name)).filter(is_refused).count()
    }

    fn put(&mut self, name: Name, entry: Entry) -> Option<Change> {
        let (changed, findings_changed) = difference(self.objects.get(&name), &entry);
        self.findings_changed |= findings_changed;
        note(&mut self.noted, &name, &entry);
        self.objects.insert(name, entry);
        changed
    }

    // What cannot be read or is refused leaves the last good content; `None`: nobody wants it.
    fn read(&mut self, name: &Name, item: Item, wanted: impl Fn(&Object) -> bool) -> Option<Entry> {
        let before = self.objects.get(name);
        let version = NonZero::new(xxh3_64(item.version.as_bytes())).filter(|_| !item.version.is_empty());
        if let Some(before) = before.filter(|before| version.is_some() && before.version == version) {
            return before.object.as_ref().is_none_or(|object| wanted(object)).then(|| before.clone());
        }
        let last_good = before.and_then(|before| before.object.clone());
        let mut document = before.and_then(|before| before.document.clone());
        let (object, findings) = match item.content {
            Ok(value) => {
                let mut parsed = api::parse(&value, &self.cluster);
                if self.kind == Kind::MeshConfig && !parsed.objects.is_empty() {
                    document = mesh_document(&value);
                }
                (parsed.objects.pop().map(|object| self.interned.share(object)), parsed.diagnostics)
            }
            Err(why) => (None, vec![Diagnostic::error("", format!("cannot be read: {why}")).of(&self.key(name))]),
        };
        if object.as_ref().or(last_good.as_ref()).is_some_and(|object| !wanted(object)) {
            return None;
        }
        // One content is kept once: an equal one is that which the engine has.
        let object = match (object, last_good) {
            (Some(new), Some(old)) if new == old => Some(old),
            (Some(new), _) => Some(new),
            (None, old) => old,
        };
        let findings = Some(findings).filter(|findings| !findings.is_empty()).map(Arc::new);
        Some(Entry { version, object, findings, document })
    }

    fn key(&self, (namespace, name): &Name) -> ObjectKey {
        ObjectKey { cluster: self.cluster.clone(), kind: self.kind, namespace: namespace.clone(), name: name.clone() }
    }

    fn unnamed(&self, item: &Item) -> Option<Diagnostic> {
        let why = item.content.as_ref().err().map_or("it has no name", String::as_str);
        let full = self.nameless.len() >= MOST_FINDINGS;
        (!full).then(|| Diagnostic::error("", format!("a {} cannot be read: {why}", self.kind.as_str())))
    }
}

/// MeshConfig as a ConfigMap has it.
fn mesh_document(config_map: &Value) -> Option<Arc<Value>> {
    let text = config_map.pointer("/data/mesh").and_then(Value::as_str)?;
    yaml::document(yaml::Document { lines_before: 0, text }).ok().map(Arc::new)
}

/// What an entry changes, and whether its findings are others.
fn difference(before: Option<&Entry>, now: &Entry) -> (Option<Change>, bool) {
    let object = now.object.as_ref().filter(|object| before.and_then(|before| before.object.as_ref()) != Some(object));
    let findings_changed = before.map_or(&[][..], Entry::findings) != now.findings();
    (object.cloned().map(Change::Applied), findings_changed)
}

fn note(noted: &mut BTreeSet<Name>, name: &Name, entry: &Entry) {
    if entry.findings.is_none() {
        noted.remove(name);
    } else {
        noted.insert(name.clone());
    }
}

impl Entry {
    fn findings(&self) -> &[Diagnostic] {
        self.findings.as_ref().map_or(&[], |findings| findings)
    }

    // As the object has it, so that its text is kept once. MeshConfig's key is not its ConfigMap's name.
    fn name(&self, read: Name) -> Name {
        let own = self.object.as_ref().map(|object| (&object.key.namespace, &object.key.name));
        match own {
            Some((namespace, name)) if (namespace, name) == (&read.0, &read.1) => (namespace.clone(), name.clone()),
            _ => read,
        }
    }
}

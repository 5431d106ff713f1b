//! What a folder holds, without touching a disk: which file says which object, who wins when two say the same, what
//! stays when a file breaks, and what changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{super::Change, file::FileContent};
use crate::api::{Diagnostic, Location, Object, ObjectKey};

/// The files as they were read last, and what they say together.
#[derive(Default)]
pub(super) struct State {
    files: BTreeMap<Arc<str>, File>,
    // All who say an object, in the order in which they have a right to it.
    claims: HashMap<ObjectKey, BTreeMap<Place, Arc<Object>>>,
    contested: BTreeSet<ObjectKey>,
    // Files that name an object and were refused.
    refusals: HashMap<ObjectKey, BTreeSet<Arc<str>>>,
    applied: HashMap<ObjectKey, (Arc<Object>, Location)>,
    // Places that changed since they were asked for last.
    moved: Vec<(ObjectKey, Option<Location>)>,
    // Keys to look at when the batch ends.
    touched: HashSet<ObjectKey>,
}

/// File, document, and number of the object in the file.
type Place = (Arc<str>, usize, usize);

#[derive(Default)]
struct File {
    objects: Vec<(Location, Arc<Object>)>,
    refused: Vec<ObjectKey>,
    diagnostics: Vec<Diagnostic>,
}

impl State {
    /// Takes a file's new content. A file of which a document is broken keeps all that was good of it; an object that
    /// was refused keeps its last good version, and the rest of the file counts.
    pub(super) fn set(&mut self, path: &Arc<str>, content: FileContent) {
        let old = self.take(path);
        let mut objects = content.objects;
        if content.broken && !old.objects.is_empty() {
            objects = old.objects;
        } else {
            let said: HashSet<_> = objects.iter().map(|(_, object)| object.key.clone()).collect();
            let kept = old.objects.into_iter().filter(|(_, object)| content.refused.contains(&object.key) && !said.contains(&object.key));
            objects.extend(kept);
        }
        self.put(path, File { objects, refused: content.refused, diagnostics: content.diagnostics });
    }

    /// A file is gone, and with it what it said.
    pub(super) fn remove(&mut self, path: &Arc<str>) {
        self.take(path);
        self.files.remove(path);
    }

    /// The files that are known.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// What changed since this was asked last, sorted by key.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let mut touched: Vec<_> = self.touched.drain().collect();
        touched.sort();
        let mut changes = Vec::new();
        for key in touched {
            let winner = self.claims.get(&key).and_then(|claims| claims.first_key_value());
            match winner {
                Some(((file, document, _), object)) => {
                    let place = Location { file: Arc::clone(file), document: *document };
                    let before = self.applied.insert(key.clone(), (Arc::clone(object), place.clone()));
                    let (known, told) = before.unzip();
                    if told.as_ref() != Some(&place) {
                        self.moved.push((key, Some(place)));
                    }
                    if known.as_ref() != Some(object) {
                        changes.push(Change::Applied(Arc::clone(object)));
                    }
                }
                // It moved to another file and was broken on the way: the last good version stays.
                None if self.refusals.contains_key(&key) => {}
                None => {
                    if self.applied.remove(&key).is_some() {
                        self.moved.push((key.clone(), None));
                        changes.push(Change::Deleted(key));
                    }
                }
            }
        }
        changes
    }

    /// Where the objects of the changes stand, and others that moved, since this was asked last.
    pub(super) fn moved(&mut self) -> Vec<(ObjectKey, Option<Location>)> {
        std::mem::take(&mut self.moved)
    }

    /// All findings that stand now, by file.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<_> = self.files.values().flat_map(|file| file.diagnostics.iter().cloned()).collect();
        all.extend(self.contested.iter().filter_map(|key| self.claims.get(key)).flat_map(conflicts));
        all.sort_by(|a, b| a.location.cmp(&b.location));
        all
    }

    fn take(&mut self, path: &Arc<str>) -> File {
        let file = self.files.get_mut(path).map(std::mem::take).unwrap_or_default();
        for (number, (location, object)) in file.objects.iter().enumerate() {
            let place = (Arc::clone(path), location.document, number);
            if let Some(claims) = self.claims.get_mut(&object.key) {
                claims.remove(&place);
                if claims.len() < 2 {
                    self.contested.remove(&object.key);
                }
                if claims.is_empty() {
                    self.claims.remove(&object.key);
                }
            }
            self.touched.insert(object.key.clone());
        }
        for key in &file.refused {
            if let Some(files) = self.refusals.get_mut(key) {
                files.remove(path);
                if files.is_empty() {
                    self.refusals.remove(key);
                }
            }
            self.touched.insert(key.clone());
        }
        file
    }

    fn put(&mut self, path: &Arc<str>, file: File) {
        for (number, (location, object)) in file.objects.iter().enumerate() {
            let claims = self.claims.entry(object.key.clone()).or_default();
            claims.insert((Arc::clone(path), location.document, number), Arc::clone(object));
            if claims.len() > 1 {
                self.contested.insert(object.key.clone());
            }
            self.touched.insert(object.key.clone());
        }
        for key in &file.refused {
            self.refusals.entry(key.clone()).or_default().insert(Arc::clone(path));
        }
        self.files.insert(Arc::clone(path), file);
    }
}

// The first place has the object; each other is told so.
fn conflicts(claims: &BTreeMap<Place, Arc<Object>>) -> Vec<Diagnostic> {
    let mut places = claims.iter();
    let Some(((first, document, _), _)) = places.next() else { return Vec::new() };
    places
        .map(|((file, at, _), object)| {
            let message = format!("is given already in {first}, document {document}, which counts; this one has no effect");
            Diagnostic::error("", message).of(&object.key).at(&Location { file: Arc::clone(file), document: *at })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::file::read_text, *};

    fn namespace(name: &str, label: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{v: {label}}}}}\n---\n")
    }

    fn authentication(mode: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
        )
    }

    fn set(state: &mut State, path: &str, text: &str) -> Vec<String> {
        let path = Arc::from(path);
        state.set(&path, read_text(&path, text, &"Kubernetes".into()));
        changed(state)
    }

    fn remove(state: &mut State, path: &str) -> Vec<String> {
        state.remove(&Arc::from(path));
        changed(state)
    }

    fn changed(state: &mut State) -> Vec<String> {
        let told = |change: Change| match change {
            Change::Applied(object) => {
                format!("+{}{}", object.key, object.metadata.labels.get("v").map(|v| format!("={v}")).unwrap_or_default())
            }
            Change::Deleted(key) => format!("-{key}"),
        };
        state.changes().into_iter().map(told).collect()
    }

    fn said(state: &State) -> Vec<String> {
        state.diagnostics().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut state = State::default();
        let both = namespace("a", "x") + &namespace("b", "x");
        assert_eq!(set(&mut state, "f.yaml", &both), ["+Namespace/a=x", "+Namespace/b=x"]);
        assert_eq!(set(&mut state, "f.yaml", &both), [""; 0]);
        let reversed = namespace("b", "y") + "# a comment\n" + &namespace("a", "x");
        assert_eq!(set(&mut state, "f.yaml", &reversed), ["+Namespace/b=y"]);
        assert_eq!(set(&mut state, "f.yaml", &namespace("a", "x")), ["-Namespace/b"]);
        assert_eq!(remove(&mut state, "f.yaml"), ["-Namespace/a"]);
        assert_eq!(state.paths().count(), 0);
    }

    #[test]
    fn the_first_of_two_counts_and_the_other_takes_its_place() {
        let mut state = State::default();
        assert_eq!(set(&mut state, "b.yaml", &namespace("n", "b")), ["+Namespace/n=b"]);
        assert_eq!(set(&mut state, "a.yaml", &("---\n".to_owned() + &namespace("n", "a"))), ["+Namespace/n=a"]);
        assert_eq!(
            said(&state),
            ["error: Namespace/n (b.yaml, document 1): is given already in a.yaml, document 1, which counts; this one has no effect"]
        );
        assert_eq!(set(&mut state, "b.yaml", &namespace("n", "c")), [""; 0]);
        assert_eq!(remove(&mut state, "a.yaml"), ["+Namespace/n=c"]);
        assert_eq!(said(&state), [""; 0]);
        let twice = namespace("n", "c") + &namespace("n", "d");
        assert_eq!(set(&mut state, "b.yaml", &twice), [""; 0]);
        assert_eq!(
            said(&state),
            ["error: Namespace/n (b.yaml, document 2): is given already in b.yaml, document 1, which counts; this one has no effect"]
        );
    }

    #[test]
    fn a_broken_file_keeps_all_that_was_good_of_it() {
        let mut state = State::default();
        set(&mut state, "f.yaml", &(namespace("a", "x") + &namespace("b", "x")));
        let broken = namespace("a", "y") + "kind: [\n";
        assert_eq!(set(&mut state, "f.yaml", &broken), [""; 0]);
        assert_eq!(said(&state).len(), 1);
        assert!(said(&state)[0].starts_with("error: (f.yaml, document 2): "), "{:?}", said(&state));
        assert_eq!(set(&mut state, "f.yaml", &namespace("a", "y")), ["+Namespace/a=y", "-Namespace/b"]);
        assert_eq!(said(&state), [""; 0]);
    }

    #[test]
    fn a_file_that_was_never_good_gives_what_can_be_read() {
        let mut state = State::default();
        let broken = namespace("a", "y") + "kind: [\n---\n" + &namespace("b", "y");
        assert_eq!(set(&mut state, "f.yaml", &broken), ["+Namespace/a=y", "+Namespace/b=y"]);
    }

    #[test]
    fn a_refused_object_keeps_its_last_good_version_and_the_rest_counts() {
        let mut state = State::default();
        set(&mut state, "f.yaml", &(authentication("STRICT") + &namespace("n", "x")));
        assert_eq!(set(&mut state, "f.yaml", &(authentication("STRCT") + &namespace("n", "y"))), ["+Namespace/n=y"]);
        assert_eq!(
            said(&state),
            [
                r#"error: PeerAuthentication/default/a (f.yaml, document 1) spec.mtls.mode: unknown value "STRCT"; known are UNSET, DISABLE, PERMISSIVE, STRICT"#
            ]
        );
        assert_eq!(set(&mut state, "f.yaml", &(authentication("STRICT") + &namespace("n", "y"))), [""; 0]);
        set(&mut state, "f.yaml", &(authentication("WRONG") + &namespace("n", "y")));
        assert_eq!(remove(&mut state, "f.yaml"), ["-Namespace/n", "-PeerAuthentication/default/a"]);
    }

    #[test]
    fn an_object_broken_while_it_moves_to_another_file_stays() {
        let mut state = State::default();
        set(&mut state, "a.yaml", &authentication("STRICT"));
        state.remove(&Arc::from("a.yaml"));
        assert_eq!(set(&mut state, "b.yaml", &authentication("STRCT")), [""; 0]);
        assert_eq!(set(&mut state, "b.yaml", ""), ["-PeerAuthentication/default/a"]);
    }

    // After any history the state says the same as one that read the same last good files at once.
    #[test]
    fn history_does_not_matter() {
        use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
        let step = (0..4usize, proptest::option::of(vec((0..4usize, 0..3usize), 0..4)));
        let text = |objects: &[(usize, usize)]| {
            objects.iter().map(|(name, label)| namespace(&format!("n{name}"), &format!("l{label}"))).collect::<String>()
        };
        TestRunner::default()
            .run(&vec(step, 1..20), |steps| {
                let (mut state, mut files, mut told) = (State::default(), BTreeMap::new(), BTreeMap::new());
                for (file, objects) in steps {
                    let path: Arc<str> = format!("{file}.yaml").into();
                    match objects {
                        Some(objects) => {
                            state.set(&path, read_text(&path, &text(&objects), &"Kubernetes".into()));
                            files.insert(path, objects);
                        }
                        None => {
                            state.remove(&path);
                            files.remove(&path);
                        }
                    }
                    for change in state.changes() {
                        match change {
                            Change::Applied(object) => told.insert(object.key.clone(), object),
                            Change::Deleted(key) => told.remove(&key),
                        };
                    }
                }
                let mut fresh = State::default();
                for (path, objects) in &files {
                    fresh.set(path, read_text(path, &text(objects), &"Kubernetes".into()));
                }
                let all = fresh.changes().into_iter().filter_map(|change| match change {
                    Change::Applied(object) => Some((object.key.clone(), object)),
                    Change::Deleted(_) => None,
                });
                prop_assert_eq!(told, all.collect::<BTreeMap<_, _>>());
                prop_assert_eq!(state.diagnostics(), fresh.diagnostics());
                Ok(())
            })
            .unwrap();
    }
}

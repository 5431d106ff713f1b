//! The objects of a folder, without touching a disk: which file defines which object, which one counts when several do,
//! what stays when a file breaks, and what changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::file::FileContent;
use crate::{
    api::{Diagnostic, Location, Object, ObjectKey, Refused, Remnant, Severity},
    source::Change,
};

/// The most findings that are listed of a folder; the others are counted.
const MOST_FINDINGS: usize = 10_000;

/// The files of a folder as they were last read, and the objects that they define together.
#[derive(Default)]
pub(super) struct FolderState {
    files: BTreeMap<Arc<str>, FileState>,
    /// The definitions of each object, of which the first counts.
    definitions: HashMap<ObjectKey, BTreeMap<Position, Arc<Object>>>,
    /// The objects with more than one definition.
    contested: BTreeSet<ObjectKey>,
    /// Where an object is refused, and what holds of it there.
    refusals: HashMap<ObjectKey, BTreeMap<Position, Option<Remnant>>>,
    applied: HashMap<ObjectKey, (Arc<Object>, Location)>,
    /// What is said of the objects of which only a remnant is applied.
    remnants: BTreeMap<ObjectKey, Diagnostic>,
    /// The locations that changed since they were last taken.
    moved: Vec<(ObjectKey, Option<Location>)>,
    /// The objects that may have changed since changes were last taken.
    touched: HashSet<ObjectKey>,
}

/// File, number of the document, and number of the object in the file.
type Position = (Arc<str>, usize, usize);

#[derive(Default)]
struct FileState {
    objects: Vec<(Location, Arc<Object>)>,
    refused: Vec<(Location, Refused)>,
    diagnostics: Vec<Diagnostic>,
}

impl FolderState {
    /// Sets the new content of a file. If one of its documents is broken, all its last good objects stay. If an object is
    /// refused, the last good version of that object stays, and the rest of the file counts.
    pub(super) fn set(&mut self, path: &Arc<str>, content: FileContent) {
        let old = self.take(path);
        let mut objects = content.objects;
        if content.broken && !old.objects.is_empty() {
            objects = old.objects;
        } else {
            let defined: HashSet<_> = objects.iter().map(|(_, object)| object.key.clone()).collect();
            let refused: HashSet<_> = content.refused.iter().map(|(_, refused)| &refused.key).collect();
            let kept = old.objects.into_iter().filter(|(_, object)| refused.contains(&object.key) && !defined.contains(&object.key));
            objects.extend(kept);
        }
        self.put(path, FileState { objects, refused: content.refused, diagnostics: content.diagnostics });
    }

    /// Removes a file with its objects and findings.
    pub(super) fn remove(&mut self, path: &Arc<str>) {
        self.take(path);
        self.files.remove(path);
    }

    /// Returns the paths of all files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// Returns what changed since this was last called, sorted by key.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        let mut touched: Vec<_> = self.touched.drain().collect();
        touched.sort();
        touched.into_iter().filter_map(|key| self.take_change(key)).collect()
    }

    /// Returns the locations that changed since this was last called.
    pub(super) fn take_moved(&mut self) -> Vec<(ObjectKey, Option<Location>)> {
        std::mem::take(&mut self.moved)
    }

    /// Returns all findings, sorted by file. What is said of remnants is that of the last changes taken.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<_> = self.files.values().flat_map(|file| file.diagnostics.iter().cloned()).collect();
        all.extend(self.remnants.values().cloned());
        all.extend(self.contested.iter().filter_map(|key| self.definitions.get(key)).flat_map(conflicts));
        all.sort_by(|a, b| a.location.cmp(&b.location));
        let left_out = all.len().saturating_sub(MOST_FINDINGS);
        if left_out > 0 {
            let is_error = all.drain(MOST_FINDINGS..).any(|finding| finding.severity == Severity::Error);
            let message = format!("{left_out} more findings about files are not listed");
            all.push(if is_error { Diagnostic::error("", message) } else { Diagnostic::warning("", message) });
        }
        all
    }

    fn take_change(&mut self, key: ObjectKey) -> Option<Change> {
        let winner = self.definitions.get(&key).and_then(|definitions| definitions.first_key_value());
        if let Some((position, object)) = winner {
            let (object, location) = (Arc::clone(object), location(position));
            self.remnants.remove(&key);
            return self.apply(key, object, location);
        }
        let refusals = self.refusals.get(&key);
        // The object was moved to another file and broken on the way, so its last good version stays.
        if refusals.is_some() && self.applied.contains_key(&key) && !self.remnants.contains_key(&key) {
            return None;
        }
        let remnant = refusals.and_then(|refusals| refusals.iter().find_map(|(position, remnant)| Some((position, remnant.as_ref()?))));
        if let Some((position, remnant)) = remnant {
            let (object, location) = (Arc::clone(&remnant.object), location(position));
            self.remnants.insert(key.clone(), remnant.finding.clone().at(&location));
            return self.apply(key, object, location);
        }
        self.remnants.remove(&key);
        self.applied.remove(&key)?;
        self.moved.push((key.clone(), None));
        Some(Change::Deleted(key))
    }

    fn apply(&mut self, key: ObjectKey, object: Arc<Object>, location: Location) -> Option<Change> {
        let before = self.applied.insert(key.clone(), (Arc::clone(&object), location.clone()));
        let (old_object, old_location) = before.unzip();
        if old_location.as_ref() != Some(&location) {
            self.moved.push((key, Some(location)));
        }
        (old_object.as_ref() != Some(&object)).then_some(Change::Applied(object))
    }

    fn take(&mut self, path: &Arc<str>) -> FileState {
        let file = self.files.get_mut(path).map(std::mem::take).unwrap_or_default();
        for (number, (location, object)) in file.objects.iter().enumerate() {
            let position = (Arc::clone(path), location.document, number);
            if let Some(definitions) = self.definitions.get_mut(&object.key) {
                definitions.remove(&position);
                if definitions.len() < 2 {
                    self.contested.remove(&object.key);
                }
                if definitions.is_empty() {
                    self.definitions.remove(&object.key);
                }
            }
            self.touched.insert(object.key.clone());
        }
        for (number, (location, Refused { key, .. })) in file.refused.iter().enumerate() {
            if let Some(refusals) = self.refusals.get_mut(key) {
                refusals.remove(&(Arc::clone(path), location.document, number));
                if refusals.is_empty() {
                    self.refusals.remove(key);
                }
            }
            self.touched.insert(key.clone());
        }
        file
    }

    fn put(&mut self, path: &Arc<str>, file: FileState) {
        for (number, (location, object)) in file.objects.iter().enumerate() {
            let definitions = self.definitions.entry(object.key.clone()).or_default();
            definitions.insert((Arc::clone(path), location.document, number), Arc::clone(object));
            if definitions.len() > 1 {
                self.contested.insert(object.key.clone());
            }
            self.touched.insert(object.key.clone());
        }
        for (number, (location, Refused { key, remnant })) in file.refused.iter().enumerate() {
            let refusals = self.refusals.entry(key.clone()).or_default();
            refusals.insert((Arc::clone(path), location.document, number), remnant.clone());
            self.touched.insert(key.clone());
        }
        self.files.insert(Arc::clone(path), file);
    }
}

fn location((file, document, _): &Position) -> Location {
    Location { file: Arc::clone(file), document: *document }
}

/// Returns a finding for each definition of an object but the first, which counts.
fn conflicts(definitions: &BTreeMap<Position, Arc<Object>>) -> Vec<Diagnostic> {
    let mut positions = definitions.iter();
    let Some(((first, document, _), _)) = positions.next() else { return Vec::new() };
    positions
        .map(|((file, at, _), object)| {
            let message = format!("is given already in {first}, document {document}, which counts; this one has no effect");
            Diagnostic::error("", message).of(&object.key).at(&Location { file: Arc::clone(file), document: *at })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::file::read_text, *};
    use crate::api::{
        Spec,
        istio::{OutboundTrafficPolicy, PeerMtlsMode},
    };

    fn namespace(name: &str, label: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{v: {label}}}}}\n---\n")
    }

    fn authentication(mode: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
        )
    }

    fn set(state: &mut FolderState, path: &str, text: &str) -> Vec<String> {
        let path = Arc::from(path);
        state.set(&path, read_text(&path, text, &"Kubernetes".into()));
        changed(state)
    }

    fn remove(state: &mut FolderState, path: &str) -> Vec<String> {
        state.remove(&Arc::from(path));
        changed(state)
    }

    fn changed(state: &mut FolderState) -> Vec<String> {
        let text = |change: Change| match change {
            Change::Applied(object) => {
                format!("+{}{}", object.key, object.metadata.labels.get("v").map(|v| format!("={v}")).unwrap_or_default())
            }
            Change::Deleted(key) => format!("-{key}"),
        };
        state.take_changes().into_iter().map(text).collect()
    }

    fn findings(state: &FolderState) -> Vec<String> {
        state.diagnostics().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut state = FolderState::default();
        let both = namespace("a", "x") + &namespace("b", "x");
        assert_eq!(set(&mut state, "f.yaml", &both), ["+Namespace/a=x", "+Namespace/b=x"]);
        assert_eq!(set(&mut state, "f.yaml", &both), [""; 0]);
        let reversed = namespace("b", "y") + "# a comment\n" + &namespace("a", "x");
        assert_eq!(set(&mut state, "f.yaml", &reversed), ["+Namespace/b=y"]);
        assert_eq!(set(&mut state, "f.yaml", &namespace("a", "x")), ["-Namespace/b"]);
        assert_eq!(remove(&mut state, "f.yaml"), ["-Namespace/a"]);
        assert_eq!(state.paths().count(), 0);
    }

    fn mesh_config(mesh: &str) -> String {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, labels: {{v: a}}}}\ndata: {{mesh: '{mesh}'}}\n---\n")
    }

    #[test]
    fn mesh_config_that_breaks_stays_as_it_was_and_is_never_left_open() {
        let mode = |state: &FolderState| {
            let (object, _) = state.applied.values().next().unwrap();
            let Spec::MeshConfig(mesh) = &object.spec else { panic!("{object:?}") };
            mesh.outbound_traffic_policy
        };
        for broken in
            ["{", "outboundTrafficPolicy: {mode: REGISTRY_ONYL}", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, connectTimeout: x}"]
        {
            let mut state = FolderState::default();
            assert_eq!(set(&mut state, "f.yaml", &mesh_config(broken)), ["+MeshConfig/istio=a"], "{broken}");
            assert_eq!((mode(&state), findings(&state).len()), (OutboundTrafficPolicy::RegistryOnly, 2), "{broken}");
            assert_eq!(set(&mut state, "f.yaml", &mesh_config("")), ["+MeshConfig/istio=a"], "{broken}");
            assert_eq!(set(&mut state, "f.yaml", &mesh_config(broken)), [""; 0], "{broken}: the last good settings stay");
            assert_eq!((mode(&state), findings(&state).len()), (OutboundTrafficPolicy::AllowAny, 1), "{broken}");
        }
    }

    #[test]
    fn the_first_of_two_counts_and_the_other_takes_its_place() {
        let mut state = FolderState::default();
        assert_eq!(set(&mut state, "b.yaml", &namespace("n", "b")), ["+Namespace/n=b"]);
        assert_eq!(set(&mut state, "a.yaml", &("---\n".to_owned() + &namespace("n", "a"))), ["+Namespace/n=a"]);
        assert_eq!(
            findings(&state),
            ["error: Namespace/n (b.yaml, document 1): is given already in a.yaml, document 1, which counts; this one has no effect"]
        );
        assert_eq!(set(&mut state, "b.yaml", &namespace("n", "c")), [""; 0]);
        assert_eq!(remove(&mut state, "a.yaml"), ["+Namespace/n=c"]);
        assert_eq!(findings(&state), [""; 0]);
        let twice = namespace("n", "c") + &namespace("n", "d");
        assert_eq!(set(&mut state, "b.yaml", &twice), [""; 0]);
        assert_eq!(
            findings(&state),
            ["error: Namespace/n (b.yaml, document 2): is given already in b.yaml, document 1, which counts; this one has no effect"]
        );
    }

    #[test]
    fn a_broken_file_keeps_all_that_was_good_of_it() {
        let mut state = FolderState::default();
        set(&mut state, "f.yaml", &(namespace("a", "x") + &namespace("b", "x")));
        let broken = namespace("a", "y") + "kind: [\n";
        assert_eq!(set(&mut state, "f.yaml", &broken), [""; 0]);
        assert_eq!(findings(&state).len(), 1);
        assert!(findings(&state)[0].starts_with("error: (f.yaml, document 2): "), "{:?}", findings(&state));
        assert_eq!(set(&mut state, "f.yaml", &namespace("a", "y")), ["+Namespace/a=y", "-Namespace/b"]);
        assert_eq!(findings(&state), [""; 0]);
    }

    #[test]
    fn a_file_that_was_never_good_gives_what_can_be_read() {
        let mut state = FolderState::default();
        let broken = namespace("a", "y") + "kind: [\n---\n" + &namespace("b", "y");
        assert_eq!(set(&mut state, "f.yaml", &broken), ["+Namespace/a=y", "+Namespace/b=y"]);
    }

    #[test]
    fn a_refused_object_keeps_its_last_good_version_and_the_rest_counts() {
        let mut state = FolderState::default();
        set(&mut state, "f.yaml", &(authentication("STRICT") + &namespace("n", "x")));
        assert_eq!(set(&mut state, "f.yaml", &(authentication("STRCT") + &namespace("n", "y"))), ["+Namespace/n=y"]);
        assert_eq!(
            findings(&state),
            [
                r#"error: PeerAuthentication/default/a (f.yaml, document 1) spec.mtls.mode: unknown value "STRCT"; known are UNSET, DISABLE, PERMISSIVE, STRICT"#
            ]
        );
        assert_eq!(set(&mut state, "f.yaml", &(authentication("STRICT") + &namespace("n", "y"))), [""; 0]);
        set(&mut state, "f.yaml", &(authentication("WRONG") + &namespace("n", "y")));
        assert_eq!(remove(&mut state, "f.yaml"), ["-Namespace/n", "-PeerAuthentication/default/a"]);
    }

    #[test]
    fn what_was_never_good_leaves_what_it_closes_until_it_is_mended() {
        let mut state = FolderState::default();
        let mode = |state: &FolderState| match &state.applied.values().next().map(|(object, _)| &object.spec) {
            Some(Spec::PeerAuthentication(policy)) => Some(policy.mode),
            _ => None,
        };
        assert_eq!(set(&mut state, "f.yaml", &authentication("STRCT")), ["+PeerAuthentication/default/a"]);
        assert_eq!(mode(&state), Some(PeerMtlsMode::Strict));
        assert_eq!(findings(&state).len(), 2, "{:?}", findings(&state));
        assert!(findings(&state)[1].contains("(f.yaml, document 1) spec: no good version"), "{:?}", findings(&state));
        assert_eq!(set(&mut state, "f.yaml", &("# still\n".to_owned() + &authentication("STRIKT"))), [""; 0]);
        assert_eq!(set(&mut state, "f.yaml", &authentication("PERMISSIVE")), ["+PeerAuthentication/default/a"]);
        assert_eq!((mode(&state), findings(&state).len()), (Some(PeerMtlsMode::Permissive), 0));
        assert_eq!(set(&mut state, "f.yaml", &authentication("STRCT")), [""; 0], "now a good version is known");
        assert_eq!((mode(&state), findings(&state).len()), (Some(PeerMtlsMode::Permissive), 1));
        assert_eq!(set(&mut state, "f.yaml", ""), ["-PeerAuthentication/default/a"]);
        assert_eq!(set(&mut state, "f.yaml", &authentication("STRCT")), ["+PeerAuthentication/default/a"]);
        assert_eq!(remove(&mut state, "f.yaml"), ["-PeerAuthentication/default/a"]);
        assert_eq!(findings(&state), [""; 0]);
    }

    #[test]
    fn an_object_broken_while_it_moves_to_another_file_stays() {
        let mut state = FolderState::default();
        set(&mut state, "a.yaml", &authentication("STRICT"));
        state.remove(&Arc::from("a.yaml"));
        assert_eq!(set(&mut state, "b.yaml", &authentication("STRCT")), [""; 0]);
        assert_eq!(set(&mut state, "b.yaml", ""), ["-PeerAuthentication/default/a"]);
    }

    /// Checks that after any history the state is the same as one that read the last files at once.
    #[test]
    fn history_does_not_matter() {
        use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
        let step = (0..4usize, proptest::option::of(vec((0..4usize, 0..3usize), 0..4)));
        let text = |objects: &[(usize, usize)]| {
            objects.iter().map(|(name, label)| namespace(&format!("n{name}"), &format!("l{label}"))).collect::<String>()
        };
        TestRunner::default()
            .run(&vec(step, 1..20), |steps| {
                let (mut state, mut files, mut received) = (FolderState::default(), BTreeMap::new(), BTreeMap::new());
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
                    for change in state.take_changes() {
                        match change {
                            Change::Applied(object) => received.insert(object.key.clone(), object),
                            Change::Deleted(key) => received.remove(&key),
                        };
                    }
                }
                let mut fresh = FolderState::default();
                for (path, objects) in &files {
                    fresh.set(path, read_text(path, &text(objects), &"Kubernetes".into()));
                }
                let all = fresh.take_changes().into_iter().filter_map(|change| match change {
                    Change::Applied(object) => Some((object.key.clone(), object)),
                    Change::Deleted(_) => None,
                });
                prop_assert_eq!(received, all.collect::<BTreeMap<_, _>>());
                prop_assert_eq!(state.diagnostics(), fresh.diagnostics());
                Ok(())
            })
            .unwrap();
    }
}

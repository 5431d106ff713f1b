//! What injection makes of pods under the walked settings: some fields are for it alone.

use std::{collections::BTreeMap, sync::Arc};

use istiod_lite::{
    api::{Diagnostic, Kind, ObjectKey},
    mesh::world::World,
    webhook::inject::{
        Settings,
        offline::{NoteOutcome, Offline},
    },
};
use serde_json::{Value, json};

/// The pods that are injected.
pub(super) struct Injection {
    pods: Vec<Value>,
}

impl Injection {
    /// Takes the pod that is walked over, or else one that the walked object is about.
    pub(super) fn of(documents: &[Value]) -> Self {
        let is = |document: &&Value, name: &str| document["kind"] == "Pod" && document["metadata"]["name"] == name;
        let pod =
            documents.iter().find(|document| is(document, "walked")).or_else(|| documents.iter().find(|document| is(document, "client")));
        Self { pods: pod.into_iter().cloned().collect() }
    }

    /// Returns what is changed in the pods, and what is said of the walked one.
    pub(super) fn pods(&self, walked: &Value, world: &Arc<World>) -> (Vec<Value>, Vec<Diagnostic>) {
        let mut offline = Offline {
            settings: Settings { image_types: vec!["walked".to_owned()], ..Settings::default() },
            world: Arc::clone(world),
            namespace: "default".to_owned(),
            namespaces: BTreeMap::new(),
        };
        offline.learn_namespaces([walked]);
        let mut notes = Vec::new();
        let is_walked = |pod: &Value| walked["kind"] == "Pod" && pod["metadata"]["name"] == "walked";
        let pods = self.pods.iter().map(|pod| if is_walked(pod) { walked } else { pod });
        // What the pod says itself is no effect of it.
        let injected = pods.map(|pod| offline.document(pod, &mut notes).map(|injected| json!(json_patch::diff(pod, &injected))));
        let injected = injected.map(Option::unwrap_or_default).collect();
        (injected, notes.into_iter().flat_map(|note| findings(note.outcome)).collect())
    }
}

/// Returns what injection says as findings about the pod `walked`: its sentences begin with the annotation that they are about.
fn findings(outcome: NoteOutcome) -> Vec<Diagnostic> {
    let pod = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::Pod, namespace: "shop".into(), name: "walked".into() };
    let of_annotation = |said: &str| match said.strip_prefix("annotation ").and_then(|said| said.split_once(": ")) {
        Some((name, message)) => (format!("metadata.annotations[{name:?}]"), message.to_owned()),
        None => (String::new(), said.to_owned()),
    };
    let found = match outcome {
        NoteOutcome::Warning(said) => vec![(of_annotation(&said), false)],
        NoteOutcome::Refused(refused) => refused.0.iter().map(|said| (of_annotation(said), true)).collect(),
        NoteOutcome::Skipped(_) => Vec::new(),
    };
    let finding =
        |((field, message), is_error)| if is_error { Diagnostic::error(field, message) } else { Diagnostic::warning(field, message) };
    found.into_iter().map(|found| finding(found).of(&pod)).collect()
}

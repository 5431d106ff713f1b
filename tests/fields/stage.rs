//! The mesh in which the fields of one kind are set, and what becomes of it.

use std::{collections::BTreeSet, sync::Arc};

use istiod_lite::{
    api::{self, Diagnostic, Kind, Object, ObjectKey, Parsed, Severity, Spec, key_set::KeySet, mesh_config::MeshConfig, yaml},
    mesh::{
        engine::Engine,
        model::{Flavour, Interception, Proxy, ProxyKind, WasmSupport},
        validate,
        world::{Touched, World},
    },
    xds::{classes::Classes, resource_type::ResourceType},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{injection::Injection, place, schema::Field};

/// What became of a field that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Some proxy is sent something else.
    Applied,
    /// A finding says that it is not done.
    Told {
        /// What the finding is about: the field, or a message that it is in.
        at: String,
        /// What it says.
        message: String,
    },
    /// Nothing changes, and nobody is told.
    Silent,
    /// No value that was tried is valid.
    Refused(String),
}

/// What single fields need.
#[derive(Deserialize)]
struct Setting {
    field: String,
    given: Option<Value>,
    beside: Option<Value>,
    values: Option<Vec<Value>>,
    key: Option<String>,
}

pub(crate) struct Stage {
    /// The object whose fields are set.
    pub(crate) object: Value,
    /// Everything else.
    pub(crate) engine: Engine,
    /// The pods that are injected under the walked settings.
    injection: Injection,
    settings: Vec<Setting>,
    kind: String,
}

/// What a mesh is for its proxies, and what is found in it.
#[derive(PartialEq, Eq)]
struct Seen {
    resources: BTreeSet<(usize, ResourceType, String, u64)>,
    injected: Vec<Value>,
    findings: BTreeSet<Diagnostic>,
    is_refused: bool,
}

impl Stage {
    pub(crate) fn of(kind: &str) -> Self {
        let around = documents(&super::read("mesh.yaml"));
        let documents = [around, documents(&super::read(&format!("kinds/{kind}.yaml")))].concat();
        let is_walked = |document: &Value| document["kind"] == kind && document["metadata"]["name"] == "walked";
        let object = documents.iter().find(|document| is_walked(document)).unwrap_or_else(|| panic!("no {kind} named walked")).clone();
        let mut engine = Engine::new("cluster.local", MeshConfig { multi_root: true, ..MeshConfig::default() });
        engine.apply(keyed(documents.iter().filter(|document| !is_walked(document)).flat_map(parse_whole).chain([fetched_keys()])));
        let injection = Injection::of(&documents);
        Self { object, engine, injection, settings: super::yaml("settings.yaml"), kind: kind.to_owned() }
    }

    /// Sets a field to values of its type until one has an effect.
    pub(super) fn outcome(&self, field: &Field) -> Outcome {
        let key = self.key(&field.path);
        let given = self.given(&field.path);
        let unset = self.see(&given);
        // That the message is there may mean something by itself, which is not the field's doing.
        let mut without = given;
        place::make(&mut without, place::parent(&field.path), &key);
        let empty = self.see(&without);
        let before = if empty.is_refused { &unset } else { &empty };
        let mut outcomes = Vec::new();
        for value in self.values(field) {
            let mut with = without.clone();
            place::put(&mut with, &field.path, &key, value);
            let after = self.see(&with);
            if let Some(refused) = self.refused_part(field, &key, &after).filter(|_| !after.is_refused) {
                return refused;
            }
            if !after.is_refused && (after.resources != before.resources || after.injected != before.injected) {
                return Outcome::Applied;
            }
            outcomes.push(self.without_effect(field, &key, &after));
        }
        let found = |wanted: fn(&Outcome) -> bool| outcomes.iter().find(|outcome| wanted(outcome)).cloned();
        found(|outcome| matches!(outcome, Outcome::Told { .. }))
            .or_else(|| found(|outcome| *outcome == Outcome::Silent))
            .or_else(|| outcomes.first().cloned())
            .expect("a value to try")
    }

    /// Returns what an error about the field says: what is sent may differ then because the part that asks for it is refused.
    fn refused_part(&self, field: &Field, key: &str, after: &Seen) -> Option<Outcome> {
        let mut about = after.findings.iter().filter(|finding| self.is_about(finding, &field.path, key));
        about.find(|finding| finding.severity == Severity::Error).map(|finding| told(finding, field, key))
    }

    fn without_effect(&self, field: &Field, key: &str, after: &Seen) -> Outcome {
        let mut about = after.findings.iter().filter(|finding| self.is_about(finding, &field.path, key));
        match about.find(|finding| tells_of_no_effect(finding)) {
            Some(finding) => told(finding, field, key),
            None if after.is_refused => {
                let said = after.findings.iter().find(|finding| finding.severity == Severity::Error);
                Outcome::Refused(said.map(ToString::to_string).unwrap_or_default())
            }
            None => Outcome::Silent,
        }
    }

    /// Returns whether a field that does not exist, in the message at a path, is named by a finding.
    pub(super) fn names_unknown_field(&self, path: &str) -> bool {
        let key = self.key(path);
        let mut document = self.given(path);
        place::put(&mut document, &format!("{path}.walked"), &key, json!("walked"));
        let parsed = self.parse(&document);
        let unknown = format!("{path}.walked");
        parsed.diagnostics.iter().any(|finding| place::is_about(&at(finding), &unknown, &key) && tells_of_no_effect(finding))
    }

    /// Returns the errors that say of a value that it is unknown, although the schema has it.
    pub(super) fn unknown_values(&self, field: &Field) -> Vec<String> {
        let key = self.key(&field.path);
        let errors_of = |value: &String| {
            let mut document = self.given(&field.path);
            place::put(&mut document, &field.path, &key, json!(value));
            let parsed = self.parse(&document);
            parsed.diagnostics.into_iter().map(|finding| finding.to_string()).filter(|said| said.contains("unknown value"))
        };
        field.values.iter().flat_map(errors_of).collect()
    }

    /// Reads a document of the kind.
    pub(crate) fn parse(&self, document: &Value) -> Parsed {
        let cluster = "Kubernetes".into();
        match self.kind.as_str() {
            // It has no name of its own, and is no document of Kubernetes.
            "MeshConfig" => api::parse_mesh_config(&document["data"], &cluster),
            _ => api::parse(document, &cluster),
        }
    }

    fn see(&self, document: &Value) -> Seen {
        let parsed = self.parse(document);
        let mut engine = self.engine.clone();
        let applied = engine.apply(keyed(parsed.objects.iter().cloned()));
        let (injected, said) = self.injection.pods(document, &applied.world);
        let is_refused = parsed.objects.is_empty() || said.iter().any(|finding| finding.severity == Severity::Error);
        let mut findings: BTreeSet<Diagnostic> =
            parsed.diagnostics.into_iter().chain(said).chain(validate::check(&applied.world)).collect();
        let classes = Classes::default();
        let proxies = proxies(&applied.world);
        classes.prepare(applied.world, &Touched { everything: true, ..Touched::default() }).send();
        let mut resources = BTreeSet::new();
        for (index, proxy) in proxies.iter().enumerate() {
            let view = classes.view_for(proxy);
            for kind in ResourceType::in_views() {
                resources.extend(view.iter(kind).map(|resource| (index, kind, resource.name.to_string(), resource.version.0)));
            }
            findings.extend(classes.findings_for(proxy));
        }
        Seen { resources, injected, findings, is_refused }
    }

    fn is_about(&self, finding: &Diagnostic, path: &str, key: &str) -> bool {
        let at = at(finding);
        let is_of_whole = ["", "spec", "data."].contains(&at.as_str());
        self.is_object(finding) && !is_of_whole && place::is_about(&at, path, key)
    }

    fn is_object(&self, finding: &Diagnostic) -> bool {
        let named = |object: &ObjectKey| object.kind.as_str() == self.kind && ["walked", "istio"].contains(&object.name.as_str());
        finding.object.as_ref().is_some_and(named)
    }

    fn given(&self, path: &str) -> Value {
        let mut given = self.object.clone();
        self.prepare(&mut given, path);
        given
    }

    /// Lays over an object what a field needs to be seen.
    pub(crate) fn prepare(&self, object: &mut Value, path: &str) {
        let key = self.key(path);
        for (setting, at) in self.settings_of(path) {
            match (&setting.given, at) {
                (None, _) => {}
                (Some(patch), None) => json_patch::merge(object, patch),
                (Some(patch), Some(at)) => place::lay_over(object, at, &key, patch),
            }
            if let (Some(patch), Some(at)) = (&setting.beside, at) {
                place::lay_over(object, place::parent(at), &key, patch);
            }
        }
    }

    /// Returns what stands for a key of the user's in a path.
    pub(crate) fn key(&self, path: &str) -> String {
        self.settings_of(path).filter_map(|(setting, _)| setting.key.clone()).last().unwrap_or_else(|| "walked".to_owned())
    }

    /// Returns values of which at least one has an effect.
    pub(crate) fn values(&self, field: &Field) -> Vec<Value> {
        if let Some(values) = self.settings_of(&field.path).filter_map(|(setting, _)| setting.values.clone()).last() {
            return values;
        }
        match field.of_type.as_str() {
            "boolean" => vec![json!(true), json!(false)],
            "integer" => vec![json!(7), json!(70), json!(503), json!(9081)],
            "number" => vec![json!(7.5), json!(0.5)],
            "enum" => field.values.iter().map(|value| json!(value)).collect(),
            _ => vec![json!("walked"), json!("7s"), json!("walked.example.com"), json!("10.9.0.1")],
        }
    }

    /// Returns the settings that a field is at or within, and for those that begin with `**.` the path that they stand for.
    fn settings_of<'s>(&'s self, path: &'s str) -> impl Iterator<Item = (&'s Setting, Option<&'s str>)> {
        self.settings.iter().filter_map(move |setting| {
            let pattern = setting.field.strip_prefix(&self.kind)?.strip_prefix(' ')?;
            let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[', '/']);
            match pattern.strip_prefix("**") {
                Some(name) => {
                    let end = path.match_indices(name).map(|(at, _)| at + name.len()).find(|end| ends(&path[*end..]))?;
                    Some((setting, Some(&path[..end])))
                }
                None => path.strip_prefix(pattern).is_some_and(ends).then_some((setting, None)),
            }
        })
    }
}

fn told(finding: &Diagnostic, field: &Field, key: &str) -> Outcome {
    Outcome::Told { at: place::within(&at(finding), &field.path, key), message: finding.message.clone() }
}

/// Returns the path that a finding is about, in the walked document: MeshConfig is the `data` of a document here.
fn at(finding: &Diagnostic) -> String {
    match &finding.object {
        Some(object) if object.kind == Kind::MeshConfig => format!("data.{}", finding.field),
        _ => finding.field.clone(),
    }
}

/// Returns whether a finding says that what was written is not done, and not that the test wrote something wrong.
fn tells_of_no_effect(finding: &Diagnostic) -> bool {
    ["no effect", "no meaning", "not supported", "not applied"].iter().any(|words| finding.message.contains(words))
}

/// Returns the proxies that are asked for what they are sent.
pub(crate) fn proxies(world: &World) -> Vec<Proxy> {
    let proxy = |id: &str, kind, flavour, interception| {
        let (name, namespace) = id.split_once('.').unwrap();
        let pod = world.workload("Kubernetes", namespace, name).unwrap_or_else(|| panic!("no pod {id}"));
        Proxy {
            service_account: pod.service_account.clone(),
            ips: pod.ips.to_vec(),
            labels: Arc::clone(&pod.labels),
            node: pod.node.clone(),
            flavour,
            interception,
            pod_ports: pod.ports.to_vec(),
            wasm: WasmSupport { runs: true, fetches: true },
            ..Proxy::new(kind, id)
        }
    };
    let sidecar = |id, flavour| proxy(id, ProxyKind::Sidecar, flavour, Interception::Redirect);
    let walked = world.workload("Kubernetes", "shop", "walked").map(|_| sidecar("walked.shop", Flavour::Stock));
    let always = vec![
        sidecar("client.shop", Flavour::Stock),
        sidecar("client.other", Flavour::Stock),
        sidecar("reviews-v1.shop", Flavour::Stock),
        sidecar("reviews-v1.shop", Flavour::Istio),
        proxy("client.shop", ProxyKind::Sidecar, Flavour::Stock, Interception::None),
        proxy("gateway.shop", ProxyKind::Gateway, Flavour::Stock, Interception::Redirect),
    ];
    always.into_iter().chain(walked).collect()
}

fn documents(text: &str) -> Vec<Value> {
    yaml::documents(text).into_iter().map(|document| yaml::document(document).expect("YAML")).collect()
}

fn parse_whole(document: &Value) -> Vec<Arc<Object>> {
    let parsed = api::parse(document, &"Kubernetes".into());
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    parsed.objects
}

/// Returns the keys that are fetched in the control plane.
fn fetched_keys() -> Arc<Object> {
    let key = ObjectKey {
        cluster: "Kubernetes".into(),
        kind: Kind::KeySet,
        namespace: Default::default(),
        name: "https://keys.example.com/keys".into(),
    };
    let set = KeySet {
        keys: Some(r#"{"keys":[{"crv":"Ed25519","kty":"OKP","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#.into()),
        trouble: None,
    };
    Arc::new(Object { key, version: Default::default(), metadata: Default::default(), spec: Spec::KeySet(Arc::new(set)) })
}

/// Returns changes that apply these objects.
pub(crate) fn keyed(objects: impl IntoIterator<Item = Arc<Object>>) -> Vec<(ObjectKey, Option<Arc<Object>>)> {
    objects.into_iter().map(|object| (object.key.clone(), Some(object))).collect()
}

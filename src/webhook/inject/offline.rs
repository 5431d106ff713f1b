//! Injects into documents instead of pods on their way into a cluster: adds the proxy to every pod template in them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map as Fields, Value};

use super::{
    Owner, Parameters, Refused, Settings, Surroundings,
    decision::{POD_SECURITY_LABEL, Skip, decide, selected},
    inject,
    shape::{StringMap, string_map},
};
use crate::mesh::world::World;

/// Injects into documents.
#[derive(Clone, Debug)]
pub struct Offline {
    /// The settings of the operator.
    pub settings: Settings,
    /// What the mesh says of proxies.
    pub world: Arc<World>,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// The labels of the namespaces that are known.
    pub namespaces: BTreeMap<String, StringMap>,
}

/// A message about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `Deployment/shop/reviews`
    pub object: String,
    /// What happened to the object.
    pub outcome: NoteOutcome,
}

/// What happened to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteOutcome {
    /// The object was injected, with this warning.
    Warning(String),
    /// The object was left as it is.
    Skipped(Skip),
    /// The object cannot be injected.
    Refused(Refused),
}

// === impl Offline ===

impl Offline {
    /// Records the labels of the namespaces among the documents. They decide about the objects in these namespaces, as the
    /// webhook's selectors would. An object in an unknown namespace is injected unless it declines.
    pub fn learn_namespaces<'v>(&mut self, documents: impl IntoIterator<Item = &'v Value>) {
        for document in documents {
            if let Some(items) = items(document) {
                self.learn_namespaces(items);
            } else if document.get("kind").and_then(Value::as_str) == Some("Namespace") {
                self.namespaces.insert(text(document, "/metadata/name"), string_map(document, "/metadata/labels"));
            }
        }
    }

    /// Injects into every pod template of a document. Returns `None` if the document stays as it is.
    pub fn document(&self, document: &Value, notes: &mut Vec<Note>) -> Option<Value> {
        let Some(items) = items(document) else { return self.object(document, notes) };
        let changed: Vec<Option<Value>> = items.iter().map(|item| self.object(item, notes)).collect();
        changed.iter().any(Option::is_some).then(|| {
            let items = items.iter().zip(changed).map(|(item, changed)| changed.unwrap_or_else(|| item.clone()));
            let mut list = document.clone();
            list["items"] = items.collect();
            list
        })
    }

    fn object(&self, object: &Value, notes: &mut Vec<Note>) -> Option<Value> {
        let template = TemplateHolder::of(object)?.template();
        let mut note = |outcome| notes.push(Note { object: self.name(object), outcome });
        match self.pod(object, template) {
            Ok((pod, warnings)) => {
                warnings.into_iter().for_each(|warning| note(NoteOutcome::Warning(warning)));
                let mut injected = object.clone();
                let target = injected.pointer_mut(template)?.as_object_mut()?;
                target.extend(pod.into_iter().filter(|(field, _)| matches!(field.as_str(), "metadata" | "spec")));
                Some(injected)
            }
            Err(outcome) => {
                note(outcome);
                None
            }
        }
    }

    fn pod(&self, object: &Value, template: &str) -> Result<(Fields<String, Value>, Vec<String>), NoteOutcome> {
        let pod = object.pointer(template).cloned().unwrap_or_default();
        let namespace = self.namespace_of(object);
        self.decide(&namespace, &pod).map_err(NoteOutcome::Skipped)?;
        let owner = (!template.is_empty()).then(|| Owner {
            api_version: text(object, "/apiVersion"),
            kind: text(object, "/kind"),
            name: text(object, "/metadata/name"),
        });
        let around = Surroundings {
            namespace: &namespace,
            pod_security: self.namespaces.get(&namespace).and_then(|labels| labels.get(POD_SECURITY_LABEL)).map(String::as_str),
            owner: owner.as_ref(),
            parameters: &Parameters::default(),
            settings: &self.settings,
            world: &self.world,
        };
        let injected = inject(&pod, around).map_err(NoteOutcome::Refused)?;
        match injected.pod {
            Value::Object(fields) => Ok((fields, injected.warnings)),
            _ => Err(NoteOutcome::Refused(Refused(vec!["is no Pod".to_owned()]))),
        }
    }

    fn decide(&self, namespace: &str, pod: &Value) -> Result<(), Skip> {
        decide(namespace, pod)?;
        match self.namespaces.get(namespace) {
            Some(of_namespace) => selected(of_namespace, &string_map(pod, "/metadata/labels"), &self.settings.revision),
            None => Ok(()),
        }
    }

    fn namespace_of(&self, object: &Value) -> String {
        Some(text(object, "/metadata/namespace")).filter(|name| !name.is_empty()).unwrap_or_else(|| self.namespace.clone())
    }

    fn name(&self, object: &Value) -> String {
        format!("{}/{}/{}", text(object, "/kind"), self.namespace_of(object), text(object, "/metadata/name"))
    }
}

/// Where a kind of object has its pod template.
enum TemplateHolder {
    Pod,
    Template,
    CronJob,
}

impl TemplateHolder {
    fn of(object: &Value) -> Option<Self> {
        let group = object.get("apiVersion")?.as_str()?.rsplit_once('/').map_or("", |(group, _)| group);
        match (group, object.get("kind")?.as_str()?) {
            ("", "Pod") => Some(Self::Pod),
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") | ("", "ReplicationController") => {
                Some(Self::Template)
            }
            ("batch", "CronJob") => Some(Self::CronJob),
            _ => None,
        }
    }

    fn template(&self) -> &'static str {
        match self {
            Self::Pod => "",
            Self::Template => "/spec/template",
            Self::CronJob => "/spec/jobTemplate/spec/template",
        }
    }
}

fn items(document: &Value) -> Option<&Vec<Value>> {
    let is_list = document.get("kind")?.as_str()?.ends_with("List");
    document.get("items").filter(|_| is_list)?.as_array()
}

fn text(object: &Value, at: &str) -> String {
    object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
}

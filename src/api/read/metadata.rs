//! Reads `apiVersion`, `kind` and `metadata`, which every document has.

use std::sync::Arc;

use serde_json::Value;
use smol_str::SmolStr;

use super::fields::{Node, Read};
use crate::api::{Kind, Metadata, ObjectKey};

/// What a document says it is.
pub(super) enum DocumentType {
    /// An object of a kind that is read, with the version without the group.
    Read(Kind, SmolStr),
    /// A list of objects.
    List,
    /// ConfigMap `istio`, which holds MeshConfig.
    MeshConfigMap,
    /// Something else: `kind` and `apiVersion` as written.
    Other(SmolStr, SmolStr),
    /// It says nothing that could be understood.
    Unclear(String),
}

/// Returns which kind of object a document holds.
pub(super) fn document_type(document: &Value) -> DocumentType {
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let (Some(kind), Some(api_version)) = (text("kind"), text("apiVersion")) else {
        return DocumentType::Unclear("apiVersion and kind are missing: this is no object".to_owned());
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if kind.ends_with("List") && document.get("items").is_some() {
        return DocumentType::List;
    }
    let name = document.pointer("/metadata/name").and_then(Value::as_str);
    if (kind, group, name) == ("ConfigMap", "", Some("istio")) && document.pointer("/data/mesh").is_some() {
        return DocumentType::MeshConfigMap;
    }
    match Kind::of(group, kind).and_then(|kind| kind.resource().map(|resource| (kind, resource))) {
        Some((kind, resource)) if resource.versions.contains(&version) => DocumentType::Read(kind, version.into()),
        Some((_, resource)) => DocumentType::Unclear(format!(
            "apiVersion {api_version}: version {version} is unknown; known are {}",
            resource.versions.join(", ")
        )),
        None => DocumentType::Other(kind.into(), api_version.into()),
    }
}

/// Name, namespace and the rest of `metadata`.
pub(super) struct Named {
    pub(super) name: SmolStr,
    namespace: SmolStr,
    pub(super) metadata: Metadata,
}

impl Named {
    /// Returns the object's key. Without a namespace it is in `default`, where the API server would put it.
    pub(super) fn key(&self, kind: Kind, cluster: &SmolStr) -> ObjectKey {
        let namespace = match kind.resource() {
            Some(resource) if resource.namespaced && self.namespace.is_empty() => "default".into(),
            Some(resource) if resource.namespaced => self.namespace.clone(),
            _ => SmolStr::default(),
        };
        ObjectKey { cluster: cluster.clone(), kind, namespace, name: self.name.clone() }
    }
}

// The API server holds names to these rules; a folder has no API server, and names end in resource names and file paths.
impl Read for Named {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let name: SmolStr = fields.get("name");
        let namespace: SmolStr = fields.get("namespace");
        if name.is_empty() {
            fields.refuse("name", "is missing");
        } else if name.len() > 253 || !name.split('.').all(is_label) {
            fields.refuse("name", format!("must be lower-case letters, digits, - and . (at most 253), is {name:?}"));
        }
        if !namespace.is_empty() && (namespace.len() > 63 || !is_label(&namespace)) {
            fields.refuse("namespace", format!("must be lower-case letters, digits and - (at most 63), is {namespace:?}"));
        }
        let metadata = Metadata {
            labels: Arc::new(fields.get("labels")),
            annotations: Arc::new(fields.get("annotations")),
            created: fields.with("creationTimestamp", seconds).unwrap_or_default(),
            generation: fields.get("generation"),
            uid: fields.get("uid"),
        };
        Some(Self { name, namespace, metadata })
    }
}

fn seconds(node: Node<'_>) -> Option<i64> {
    let time = node.value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if time.is_none() {
        node.findings.warning(&node.path, "is no RFC 3339 time: taken as absent");
    }
    time.map(jiff::Timestamp::as_second)
}

// Characters of a DNS-1123 label; its length is held by the caller.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().next_back().is_some_and(inner)
}

//! From a document to typed objects, with findings that name the field.
//!
//! It is as tolerant as proto3 JSON: durations in Go's form, numbers as texts, enums by name or number, `snake_case` for
//! `camelCase`, `null` for absent. An unknown field is a warning; an unknown enum value or a wrong type is an error, and
//! then the object is refused.

mod authorization_policy;
mod ca_certificates;
mod envoy_filter;
mod extension_provider;
mod fields;
mod gateway;
mod http_route;
mod kubernetes;
mod label_selector;
mod mesh_config;
mod mesh_tls;
mod metadata;
mod peer_authentication;
mod proxy_config;
mod rate_limit_policy;
mod remnant;
mod request_authentication;
mod scalar;
mod service_entry;
mod target;
mod telemetry;
mod traffic_extension;
mod traffic_policy;
mod virtual_service;

use std::sync::Arc;

use serde_json::Value;
use smol_str::SmolStr;

pub use self::remnant::Remnant;
use self::{
    fields::{Fields, Node, Read},
    kubernetes::{config_map, endpoint_slice, pod, secret},
    metadata::{DocumentType, Named, document_type},
};
use super::{
    Diagnostic, Kind, Metadata, Object, ObjectKey, Spec,
    findings::{Findings, Path},
    kinds::kinds,
    mesh_config::MeshConfig,
    proxy_config::ProxyConfig,
    validate, yaml,
};

/// What one document holds.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The objects that may be applied, in the document's order; a `List` holds several.
    pub objects: Vec<Arc<Object>>,
    /// Objects that have a name and were refused: what was good of them before is to stay.
    pub refused: Vec<Refused>,
    /// The findings. An error means that its object was refused.
    pub diagnostics: Vec<Diagnostic>,
}

/// An object that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Which object it is.
    pub key: ObjectKey,
    /// What of it holds all the same, if no good version of it is known; `None`: nothing.
    pub remnant: Option<Remnant>,
}

/// Reads and validates one document: an object, or a list of objects. A document of a kind that is not read gives no
/// object and a warning; so does nothing at all (`null`), without one.
pub fn parse(document: &Value, cluster: &SmolStr) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.read(document, cluster, 0);
    parsed
}

/// Reads a file that holds plain MeshConfig. Its key has the name `istio`, as has that of ConfigMap `istio`.
pub fn parse_mesh_config(document: &Value, cluster: &SmolStr) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.read_mesh_config(document, cluster, Metadata::default());
    parsed
}

/// Returns what of a MeshConfig document holds where it is refused, as a document; `None` if nothing would be open without it. No
/// document is one that cannot be read at all.
pub fn mesh_config_remnant(document: Option<&Value>) -> Option<Value> {
    remnant::mesh_config::document(document)
}

/// Reads ProxyConfig, and what is doubtful in it.
///
/// # Errors
/// When it cannot be applied: the findings, of which at least one is an error.
pub fn parse_proxy_config(document: &Value) -> Result<(ProxyConfig, Vec<Diagnostic>), Vec<Diagnostic>> {
    let findings = Findings::default();
    let config = match document {
        Value::Null => Some(ProxyConfig::default()),
        document => ProxyConfig::read(Node { value: document, path: Path::Root, findings: &findings }),
    };
    match config {
        Some(config) if !findings.refuse() => Ok((config, findings.into_vec())),
        _ => Err(findings.into_vec()),
    }
}

impl Parsed {
    fn read(&mut self, document: &Value, cluster: &SmolStr, depth: usize) {
        if document.is_null() {
            return;
        }
        match document_type(document) {
            DocumentType::Read(kind, version) => self.read_object(document, cluster, kind, version),
            DocumentType::List if depth == 0 => self.read_list(document, cluster),
            DocumentType::List => self.diagnostics.push(Diagnostic::error("items", "a list within a list is not read")),
            DocumentType::MeshConfigMap => self.read_config_map(document, cluster),
            DocumentType::Other(kind, version) => {
                self.diagnostics.push(Diagnostic::warning("kind", format!("{kind} ({version}) is not read: the document has no effect")));
            }
            DocumentType::Unclear(why) => self.diagnostics.push(Diagnostic::error("", why)),
        }
    }

    fn read_list(&mut self, document: &Value, cluster: &SmolStr) {
        let Some(Value::Array(items)) = document.get("items") else {
            return self.diagnostics.push(Diagnostic::error("items", "must be a list"));
        };
        for (index, item) in items.iter().enumerate() {
            let before = self.diagnostics.len();
            self.read(item, cluster, 1);
            for finding in &mut self.diagnostics[before..] {
                let dot = if finding.field.is_empty() { "" } else { "." };
                finding.field = format!("items[{index}]{dot}{}", finding.field);
            }
        }
    }

    fn read_object(&mut self, document: &Value, cluster: &SmolStr, kind: Kind, version: SmolStr) {
        let findings = Findings::default();
        let named = read_metadata(document, &findings);
        let key = named.as_ref().filter(|named| !named.name.is_empty()).map(|named| named.key(kind, cluster));
        let metadata = named.map(|named| Arc::new(named.metadata)).unwrap_or_default();
        let object = key.clone().and_then(|key| {
            let spec = read_spec(kind, document, &metadata, &findings)?;
            Some(Object { key, version, metadata: Arc::clone(&metadata), spec })
        });
        if let Some(object) = &object
            && !findings.refuse()
        {
            validate::object(object, &findings);
        }
        let left = || key.as_ref().and_then(|key| remnant::of(key, &metadata, document));
        self.keep(object, key.clone(), findings, left);
    }

    fn read_config_map(&mut self, document: &Value, cluster: &SmolStr) {
        let metadata = read_metadata(document, &Findings::default()).map(|named| named.metadata).unwrap_or_default();
        let mut read = Self::default();
        match document.pointer("/data/mesh").and_then(Value::as_str).map(|text| yaml::document(yaml::Document { lines_before: 0, text })) {
            Some(Ok(mesh)) => read.read_mesh_config(&mesh, cluster, metadata),
            Some(Err(broken)) => read.refuse_mesh_config(&broken.to_string(), cluster, metadata),
            None => read.refuse_mesh_config("must be a string", cluster, metadata),
        }
        let remnants = read.refused.iter_mut().filter_map(|refused| Some(&mut refused.remnant.as_mut()?.finding));
        for finding in read.diagnostics.iter_mut().chain(remnants) {
            let dot = if finding.field.is_empty() { "" } else { "." };
            finding.field = format!("data.mesh{dot}{}", finding.field);
        }
        self.objects.append(&mut read.objects);
        self.refused.append(&mut read.refused);
        self.diagnostics.append(&mut read.diagnostics);
    }

    fn read_mesh_config(&mut self, document: &Value, cluster: &SmolStr, metadata: Metadata) {
        let findings = Findings::default();
        let key = mesh_config_key(cluster);
        let empty = Value::Object(serde_json::Map::new());
        let value = if document.is_null() { &empty } else { document };
        let mesh = MeshConfig::read(Node { value, path: Path::Root, findings: &findings });
        let object = mesh.map(|mesh| Object {
            key: key.clone(),
            version: SmolStr::default(),
            metadata: Arc::new(metadata.clone()),
            spec: Spec::MeshConfig(Arc::new(mesh)),
        });
        self.keep(object, Some(key.clone()), findings, || remnant::mesh_config::left(&key, metadata, Some(value)));
    }

    /// Refuses MeshConfig that cannot be read at all.
    fn refuse_mesh_config(&mut self, why: &str, cluster: &SmolStr, metadata: Metadata) {
        let findings = Findings::default();
        findings.error(&Path::Root, why);
        let key = mesh_config_key(cluster);
        self.keep(None, Some(key.clone()), findings, || remnant::mesh_config::left(&key, metadata, None));
    }

    fn keep(&mut self, object: Option<Object>, key: Option<ObjectKey>, findings: Findings, remnant: impl FnOnce() -> Option<Remnant>) {
        match (object, &key) {
            (Some(object), _) if !findings.refuse() => self.objects.push(Arc::new(object)),
            (_, Some(key)) => self.refused.push(Refused { key: key.clone(), remnant: remnant() }),
            (_, None) => {}
        }
        let named = findings.into_vec().into_iter().map(|finding| match &key {
            Some(key) => finding.of(key),
            None => finding,
        });
        self.diagnostics.extend(named);
    }
}

fn mesh_config_key(cluster: &SmolStr) -> ObjectKey {
    ObjectKey { cluster: cluster.clone(), kind: Kind::MeshConfig, namespace: SmolStr::default(), name: "istio".into() }
}

fn read_metadata(document: &Value, findings: &Findings) -> Option<Named> {
    let path = Path::Root.field("metadata");
    let Some(value) = document.get("metadata") else {
        findings.error(&path, "is missing");
        return None;
    };
    Named::read(Node { value, path, findings })
}

macro_rules! define_read_spec {
    ($(
        $(#[$doc:meta])*
        $kind:ident $(($content:ty))? { facts: $facts:expr, $(read: $read:ident,)? $(check: $check:ident,)? }
    )*) => {
        fn read_spec(kind: Kind, document: &Value, metadata: &Metadata, findings: &Findings) -> Option<Spec> {
            let fields = Node { value: document, path: Path::Root, findings }.fields()?;
            Some(match kind {
                $(Kind::$kind => Spec::$kind $((Arc::new($read(fields, metadata)?)))?,)*
            })
        }
    };
}

kinds!(define_read_spec);

// Kubernetes' own kinds have more fields than are read, here and beside.
fn spec<T: Read + Default>(fields: Fields<'_>, _: &Metadata) -> Option<T> {
    Some(fields.get("spec"))
}

// Beside `spec` Istio's kinds have only these.
fn istio_spec<T: Read + Default>(fields: Fields<'_>, _: &Metadata) -> Option<T> {
    for name in ["apiVersion", "kind", "metadata", "status"] {
        fields.pass(name);
    }
    let spec = fields.get("spec");
    fields.finish();
    Some(spec)
}

// What no document is of: MeshConfig is part of a ConfigMap, or a file of its own.
fn no_document<T>(_: Fields<'_>, _: &Metadata) -> Option<T> {
    None
}

#[cfg(test)]
mod mutation;
#[cfg(test)]
mod tests;

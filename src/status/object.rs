//! An object as the API server has it: its path, and the fields that are read of it.

use serde::Deserialize;
use serde_json::Value;

use super::Settings;
use crate::api::ObjectKey;

/// The path of an object at the API server.
pub(super) struct ObjectPath {
    pub(super) kind: &'static str,
    group: &'static str,
    pub(super) versions: &'static [&'static str],
    plural: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The fields of an object that are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ReadObject {
    pub(super) api_version: String,
    pub(super) metadata: ReadMetadata,
    pub(super) status: Value,
}

/// The fields of `metadata` that are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ReadMetadata {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) resource_version: String,
    pub(super) managed_fields: Value,
}

impl ObjectPath {
    /// Returns the path of an object.
    pub(super) fn of(key: &ObjectKey, settings: &Settings) -> Self {
        let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
        match key.kind.resource() {
            Some(resource) => Self {
                kind: key.kind.as_str(),
                group: resource.group,
                versions: resource.versions,
                plural: resource.plural,
                namespace,
                name,
            },
            None => Self::of_mesh_config(settings),
        }
    }

    fn of_mesh_config(settings: &Settings) -> Self {
        let name = match &*settings.revision {
            "" | "default" => "istio".to_owned(),
            revision => format!("istio-{revision}"),
        };
        let namespace = settings.namespace.to_string();
        Self { kind: "ConfigMap", group: "", versions: &["v1"], plural: "configmaps", namespace, name }
    }

    /// Returns `group/version`, or the version alone in the core group.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// Returns the path in this version of its kind.
    pub(super) fn in_version(&self, version: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if self.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", self.namespace) };
        format!("{root}/{}{namespace}/{}/{}", self.api_version(version), self.plural, self.name)
    }
}

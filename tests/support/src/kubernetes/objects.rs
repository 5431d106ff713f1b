//! Objects written to the API server.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiServer;
use crate::wait;

/// Whose the fields are.
const MANAGER: &str = "harness";
/// How long a new kind may take until it is served.
const ESTABLISHED: Duration = Duration::from_secs(60);

impl ApiServer {
    /// Applies every document of a YAML text (server-side), status included.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let objects = serde_norway::Deserializer::from_str(yaml).map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
        self.put(&objects.into_iter().filter(|object| !object.is_null()).collect::<Vec<_>>()).await
    }

    /// Applies objects (server-side), in their order, status included.
    pub async fn put(&self, objects: &[Value]) -> Result<()> {
        let client = self.client().await?;
        for object in objects {
            put(&client, object).await.with_context(|| format!("apply {}", name_of(object)))?;
        }
        Ok(())
    }

    /// Merges `patch` into an object.
    pub async fn patch(&self, object: Object<'_>, patch: &Value) -> Result<()> {
        let api = object.api(self.client().await?)?;
        api.patch(object.name, &PatchParams::default(), &Patch::Merge(patch)).await.with_context(|| format!("patch {object:?}"))?;
        Ok(())
    }

    /// Deletes an object at once.
    pub async fn delete(&self, object: Object<'_>) -> Result<()> {
        let api = object.api(self.client().await?)?;
        api.delete(object.name, &DeleteParams::default().grace_period(0)).await.with_context(|| format!("delete {object:?}"))?;
        Ok(())
    }

    /// Reads an object.
    pub async fn get(&self, object: Object<'_>) -> Result<Value> {
        let found = object.api(self.client().await?)?.get(object.name).await.with_context(|| format!("get {object:?}"))?;
        Ok(serde_json::to_value(found)?)
    }

    /// Makes a namespace with its default service account, without which it accepts no pods.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.put(&[
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": name } }),
        ])
        .await
    }

    /// Applies definitions, and waits until their kinds are served.
    pub async fn define(&self, definitions: &[Value]) -> Result<()> {
        self.put(definitions).await?;
        let client = self.client().await?;
        for definition in definitions {
            wait_until_served(&client, definition).await?;
        }
        Ok(())
    }
}

/// The name of one object.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// As in `apiVersion`.
    pub api_version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace; empty for an object of the whole cluster.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

impl Object<'_> {
    fn api(self, client: Client) -> Result<Api<DynamicObject>> {
        api(client, self.api_version, self.kind, self.namespace)
    }
}

async fn put(client: &Client, object: &Value) -> Result<()> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let api = api(client.clone(), text("/apiVersion"), text("/kind"), text("/metadata/namespace"))?;
    let name = text("/metadata/name");
    ensure!(!name.is_empty(), "no name");
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await?;
    if let Some(status) = object.get("status") {
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?;
    }
    Ok(())
}

fn api(client: Client, api_version: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ensure!(!version.is_empty() && !kind.is_empty(), "no apiVersion or kind");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok(if namespace.is_empty() { Api::all_with(client, &resource) } else { Api::namespaced_with(client, namespace, &resource) })
}

fn name_of(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// Waits until a list is answered: a kind that is established is not yet served.
async fn wait_until_served(client: &Client, definition: &Value) -> Result<()> {
    let spec = &definition["spec"];
    let (Some(group), Some(kind)) = (spec["group"].as_str(), spec["names"]["kind"].as_str()) else { bail!("not a definition") };
    for version in spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true) {
        let version = version["name"].as_str().unwrap_or_default();
        let api = api(client.clone(), &format!("{group}/{version}"), kind, "")?;
        let one = ListParams::default().limit(1);
        wait::until(&format!("{kind} of {group}/{version} to be served"), ESTABLISHED, || async { Ok(api.list_metadata(&one).await?) })
            .await?;
    }
    Ok(())
}

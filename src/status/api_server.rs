//! The few requests to the API server.

use std::fmt;

use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use k8s_openapi::{
    api::events::v1::{Event, EventSeries},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Settings, condition,
    object::{ObjectPath, ReadObject},
};
use crate::{
    api::{Kind, ObjectKey},
    peer_text::escaped_in_json,
};

/// The number of objects in one page of a list.
const PAGE: usize = 200;

/// Reads objects, and writes conditions and Events.
pub(super) struct ApiServer {
    settings: Settings,
    /// The type of our condition.
    pub(super) condition: String,
    manager: String,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) struct ApiError(Box<kube::Error>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectList {
    metadata: ListMetadata,
    items: Vec<ReadObject>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: String,
}

impl ApiServer {
    /// Makes an API server that is asked by these settings.
    pub(super) fn new(settings: &Settings) -> Self {
        let manager = match &*settings.revision {
            "" | "default" => "istiod-lite".to_owned(),
            revision => format!("istiod-lite-{revision}"),
        };
        Self { settings: settings.clone(), condition: condition::type_of(&settings.revision), manager }
    }

    /// Reads an object. Returns `None` if there is no object of that name or its kind is not served.
    pub(super) async fn get(&self, key: &ObjectKey) -> Result<Option<ReadObject>, ApiError> {
        let path = ObjectPath::of(key, &self.settings);
        for version in path.versions {
            match self.get_at(&path.in_version(version)).await {
                Ok(object) => return Ok(Some(object)),
                Err(error) => error.unless_absent()?,
            }
        }
        Ok(None)
    }

    /// Lists the objects of a kind on which our condition says that something is wrong.
    pub(super) async fn list_complaints(&self, kind: Kind) -> Result<Vec<ObjectKey>, ApiError> {
        let Some(resource) = kind.resource() else { return Ok(Vec::new()) };
        for version in resource.versions {
            let path = format!("/apis/{}/{version}/{}?limit={PAGE}", resource.group, resource.plural);
            match self.list_complaints_at(kind, &path).await {
                Ok(found) => return Ok(found),
                Err(error) => error.unless_absent()?,
            }
        }
        Ok(Vec::new())
    }

    async fn list_complaints_at(&self, kind: Kind, path: &str) -> Result<Vec<ObjectKey>, ApiError> {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let list: ObjectList = self.get_at(&format!("{path}{next}")).await?;
            let ours = list.items.iter().filter(|object| condition::complains(&object.status, &self.condition));
            found.extend(ours.map(|ReadObject { metadata, .. }| ObjectKey {
                cluster: self.settings.cluster.clone(),
                kind,
                namespace: metadata.namespace.as_str().into(),
                name: metadata.name.as_str().into(),
            }));
            if list.metadata.next.is_empty() {
                return Ok(found);
            }
            next = format!("&continue={}", list.metadata.next);
        }
    }

    /// Applies `status`. Nothing happens if the object is gone or its kind has no status subresource. Where `status` repeats
    /// conditions of others, the object must not have changed since it was read.
    pub(super) async fn apply_status(&self, key: &ObjectKey, object: &ReadObject, status: Value) -> Result<(), ApiError> {
        let path = ObjectPath::of(key, &self.settings);
        let mut metadata = json!({"name": path.name});
        if condition::is_one_list(&object.metadata.managed_fields) {
            metadata["resourceVersion"] = json!(object.metadata.resource_version);
        }
        let document = json!({"apiVersion": object.api_version, "kind": path.kind, "metadata": metadata, "status": status});
        let version = object.api_version.split_once('/').map_or(&*object.api_version, |(_, version)| version);
        let uri = format!("{}/status?fieldManager={}&force=true", path.in_version(version), self.manager);
        let applied = self.send(Method::PATCH, &uri, "application/apply-patch+yaml", &document).await;
        applied.or_else(ApiError::unless_absent)
    }

    /// Posts an Event. If there is one of the same name, its count goes up by one instead.
    pub(super) async fn post_event(&self, event: &Event, now: Timestamp) -> Result<(), ApiError> {
        let (Some(name), Some(namespace)) = (&event.metadata.name, &event.metadata.namespace) else { return Ok(()) };
        let all = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let posted = self.send(Method::POST, &format!("{all}?fieldManager={}", self.manager), "application/json", event).await;
        match posted {
            Ok(()) => return Ok(()),
            Err(error) if error.is(StatusCode::CONFLICT) => {}
            // A namespace that is being deleted takes no Events.
            Err(error) => return error.unless_absent(),
        }
        let path = format!("{all}/{name}");
        // The Event exists. Its count is raised only if we may read it.
        let Ok(present) = self.get_at::<Event>(&path).await else { return Ok(()) };
        let count = present.series.map_or(1, |series| series.count).saturating_add(1);
        let series = json!({"series": EventSeries { count, last_observed_time: MicroTime(now) }});
        self.send(Method::PATCH, &path, "application/merge-patch+json", &series).await
    }

    async fn get_at<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        Ok(self.settings.client.request(request).await?)
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: &impl Serialize) -> Result<(), ApiError> {
        // What is applied is read as YAML, which has not all characters that JSON has: conditions of others may hold any.
        let body = escaped_in_json(&serde_json::to_string(body).map_err(kube::Error::SerdeError)?).into_bytes();
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body);
        let _: Value = self.settings.client.request(request.map_err(kube::Error::HttpError)?).await?;
        Ok(())
    }
}

impl ApiError {
    fn is(&self, code: StatusCode) -> bool {
        matches!(&*self.0, kube::Error::Api(status) if status.code == code.as_u16())
    }

    /// Returns no error if the object, its kind or its namespace is gone, for then there is nothing to do.
    fn unless_absent(self) -> Result<(), Self> {
        let absent =
            self.is(StatusCode::NOT_FOUND) || matches!(&*self.0, kube::Error::Api(status) if status.message.contains("being terminated"));
        if absent { Ok(()) } else { Err(self) }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            kube::Error::Api(status) => write!(f, "{} ({})", status.message, status.code),
            error => error.fmt(f),
        }
    }
}

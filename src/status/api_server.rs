//! The few requests that are made to the API server.

use std::fmt;

use http::{Method, Request, StatusCode};
use jiff::Timestamp;
use k8s_openapi::{
    api::events::v1::{Event, EventSeries},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Settings, condition};
use crate::api::{Kind, ObjectKey};

/// Objects are listed so many at a time.
const PAGE: usize = 200;

/// Asks and tells the API server.
pub(super) struct Server {
    settings: Settings,
    /// The type of our condition.
    pub(super) condition: String,
    manager: String,
}

/// Where an object is kept.
pub(super) struct Place {
    pub(super) kind: &'static str,
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is read of an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) api_version: String,
    pub(super) metadata: Metadata,
    pub(super) status: Value,
}

/// What is read of its `metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    namespace: String,
    name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) resource_version: String,
    pub(super) managed_fields: Value,
}

/// Why something could not be read or written.
#[derive(Debug)]
pub(super) struct Trouble(Box<kube::Error>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    metadata: ListMetadata,
    items: Vec<Seen>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: String,
}

impl Server {
    pub(super) fn new(settings: &Settings) -> Self {
        let manager = match &*settings.revision {
            "" | "default" => "istiod-lite".to_owned(),
            revision => format!("istiod-lite-{revision}"),
        };
        Self { settings: settings.clone(), condition: condition::type_of(&settings.revision), manager }
    }

    /// The object; `None`: there is none of that name, or its kind is not served.
    pub(super) async fn get(&self, key: &ObjectKey) -> Result<Option<Seen>, Trouble> {
        let place = Place::of(key, &self.settings);
        for version in place.versions {
            match self.get_at(&place.path(version)).await {
                Ok(seen) => return Ok(Some(seen)),
                Err(trouble) => trouble.unless_absent()?,
            }
        }
        Ok(None)
    }

    /// The objects of a kind whose condition, if it is ours, complains.
    pub(super) async fn conditioned(&self, kind: Kind) -> Result<Vec<ObjectKey>, Trouble> {
        let Some(resource) = kind.resource() else { return Ok(Vec::new()) };
        for version in resource.versions {
            let path = format!("/apis/{}/{version}/{}?limit={PAGE}", resource.group, resource.plural);
            match self.complaining(kind, &path).await {
                Ok(found) => return Ok(found),
                Err(trouble) => trouble.unless_absent()?,
            }
        }
        Ok(Vec::new())
    }

    async fn complaining(&self, kind: Kind, path: &str) -> Result<Vec<ObjectKey>, Trouble> {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let list: List = self.get_at(&format!("{path}{next}")).await?;
            let ours = list.items.iter().filter(|seen| condition::complains(&seen.status, &self.condition));
            found.extend(ours.map(|Seen { metadata, .. }| ObjectKey {
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

    /// Applies `status`; nothing happens if the object is gone or its kind has no status of its own. Where conditions of
    /// others are repeated, it must not have changed meanwhile.
    pub(super) async fn apply_status(&self, key: &ObjectKey, seen: &Seen, status: Value) -> Result<(), Trouble> {
        let place = Place::of(key, &self.settings);
        let mut metadata = json!({"name": place.name});
        if condition::is_one_list(&seen.metadata.managed_fields) {
            metadata["resourceVersion"] = json!(seen.metadata.resource_version);
        }
        let document = json!({"apiVersion": seen.api_version, "kind": place.kind, "metadata": metadata, "status": status});
        let version = seen.api_version.split_once('/').map_or(&*seen.api_version, |(_, version)| version);
        let path = format!("{}/status?fieldManager={}&force=true", place.path(version), self.manager);
        let applied = self.send(Method::PATCH, &path, "application/apply-patch+yaml", &document).await;
        applied.or_else(Trouble::unless_absent)
    }

    /// Posts an Event; one that is there already is counted once more.
    pub(super) async fn post_event(&self, event: &Event, now: Timestamp) -> Result<(), Trouble> {
        let (Some(name), Some(namespace)) = (&event.metadata.name, &event.metadata.namespace) else { return Ok(()) };
        let all = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let posted = self.send(Method::POST, &format!("{all}?fieldManager={}", self.manager), "application/json", event).await;
        match posted {
            Ok(()) => return Ok(()),
            Err(trouble) if trouble.is(StatusCode::CONFLICT) => {}
            // Nobody can be told in a namespace that is going.
            Err(trouble) => return trouble.unless_absent(),
        }
        let path = format!("{all}/{name}");
        // It stands in any case; how often it was said is told where that may be read.
        let Ok(stands) = self.get_at::<Event>(&path).await else { return Ok(()) };
        let count = stands.series.map_or(1, |series| series.count).saturating_add(1);
        let series = json!({"series": EventSeries { count, last_observed_time: MicroTime(now) }});
        self.send(Method::PATCH, &path, "application/merge-patch+json", &series).await
    }

    async fn get_at<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        Ok(self.settings.client.request(request).await?)
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: &impl Serialize) -> Result<(), Trouble> {
        let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body);
        let _: Value = self.settings.client.request(request.map_err(kube::Error::HttpError)?).await?;
        Ok(())
    }
}

impl Place {
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

    /// `group/version`
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    fn path(&self, version: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if self.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", self.namespace) };
        format!("{root}/{}{namespace}/{}/{}", self.api_version(version), self.plural, self.name)
    }
}

impl Trouble {
    fn is(&self, code: StatusCode) -> bool {
        matches!(&*self.0, kube::Error::Api(status) if status.code == code.as_u16())
    }

    /// Nothing is to be done where there is nothing.
    fn unless_absent(self) -> Result<(), Self> {
        let absent =
            self.is(StatusCode::NOT_FOUND) || matches!(&*self.0, kube::Error::Api(status) if status.message.contains("being terminated"));
        if absent { Ok(()) } else { Err(self) }
    }
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            kube::Error::Api(status) => write!(f, "{} ({})", status.message, status.code),
            error => error.fmt(f),
        }
    }
}

//! Decodes what the API server answers: pages of a list and lines of a watch.
//!
//! Objects are first cut out as text and then read one by one, so that one that cannot be read is an error of that object
//! and not of the whole list.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use smol_str::SmolStr;

use super::{field_mask::FieldMask, kinds::WatchedResource};
use crate::api::{Kind, value::Allowance};

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct ListPage<'a> {
    /// The metadata of the list as a whole.
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    /// The objects, which are not read yet.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMetadata {
    /// The resource version of the whole collection.
    pub(super) resource_version: String,
    /// The token that asks for the next page; empty on the last one.
    #[serde(rename = "continue")]
    pub(super) next: String,
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// The object was added or changed.
    Applied(DecodedObject),
    /// The object was deleted.
    Deleted(DecodedObject),
    /// No further changes happened up to this resource version.
    Bookmark(SmolStr),
    /// The server ends the watch and says why.
    Error(ApiStatus),
}

/// One object, reduced to the fields that are used.
#[derive(Debug)]
pub(super) struct DecodedObject {
    /// Namespace and name; `None` if they cannot be read.
    pub(super) name: Option<ObjectName>,
    /// `metadata.resourceVersion`
    pub(super) version: SmolStr,
    /// The content, or why it cannot be read.
    pub(super) content: Result<Value, String>,
}

/// Namespace and name of an object.
pub(super) type ObjectName = (SmolStr, SmolStr);

/// Why a request failed, as the API server describes it (`v1.Status`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiStatus {
    /// The HTTP status.
    pub(super) code: u16,
    /// The reason in one word: `Expired`, `Forbidden`.
    pub(super) reason: String,
    /// The explanation for people.
    pub(super) message: String,
}

/// The most memory that the values of one object may take: 64 bytes for each of the 1.5 MB that etcd stores of it. It is more than
/// the webhook lets pass, since what is stored already should count.
const MOST_OF_OBJECT: usize = 96 << 20;

static IDENTITY: FieldMask = FieldMask::Fields(&[(
    "metadata",
    FieldMask::Fields(&[("name", FieldMask::All), ("namespace", FieldMask::All), ("resourceVersion", FieldMask::All)]),
)]);

/// Reads a page of a list without reading its objects.
///
/// # Errors
/// When the body is no list.
pub(super) fn page(body: &[u8]) -> Result<ListPage<'_>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// Reads one line of a watch.
///
/// # Errors
/// When the line is no event.
pub(super) fn watch_event(line: &str, resource: &WatchedResource, version: &str) -> Result<WatchEvent, serde_json::Error> {
    #[derive(Deserialize)]
    struct RawEvent<'a> {
        #[serde(rename = "type")]
        event: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let RawEvent { event, object } = serde_json::from_str(line)?;
    Ok(match event {
        "ADDED" | "MODIFIED" => WatchEvent::Applied(item(object, resource, version)),
        "DELETED" => WatchEvent::Deleted(item(object, resource, version)),
        "BOOKMARK" => WatchEvent::Bookmark(read_identity(object).1),
        "ERROR" => WatchEvent::Error(serde_json::from_str(object.get())?),
        other => return Err(serde::de::Error::custom(format!("event of unknown type {other:?}"))),
    })
}

impl<'a> ListPage<'a> {
    /// Returns the objects, each of which is read when the iterator comes to it.
    pub(super) fn items(&self, resource: &'static WatchedResource, version: &'static str) -> impl Iterator<Item = DecodedObject> {
        self.items.iter().flatten().map(move |raw| item(raw, resource, version))
    }
}

fn item(raw: &RawValue, resource: &WatchedResource, version: &str) -> DecodedObject {
    match masked(raw, resource.fields) {
        Ok(mut value) => {
            let (name, resource_version) = identity_of(&value);
            set_type(&mut value, resource, version);
            DecodedObject { name, version: resource_version, content: Ok(value) }
        }
        Err(why) => {
            let (name, resource_version) = read_identity(raw);
            DecodedObject { name, version: resource_version, content: Err(why.to_string()) }
        }
    }
}

/// Sets `apiVersion` and `kind`, which objects in lists of built-in kinds do not have.
fn set_type(value: &mut Value, resource: &WatchedResource, version: &str) {
    let Value::Object(fields) = value else { return };
    let group = resource.group;
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    fields.insert("apiVersion".to_owned(), Value::String(api_version));
    fields.insert("kind".to_owned(), Value::String(resource.kind.as_str().to_owned()));
    if resource.kind == Kind::MeshConfig {
        fields.insert("kind".to_owned(), "ConfigMap".into());
        // The ConfigMap of a revision has another name, but its MeshConfig has the same key.
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.insert("name".to_owned(), "istio".into());
        }
    }
}

fn read_identity(raw: &RawValue) -> (Option<ObjectName>, SmolStr) {
    masked(raw, &IDENTITY).map(|value| identity_of(&value)).unwrap_or_default()
}

/// Returns the name and the resource version of an object.
fn identity_of(value: &Value) -> (Option<ObjectName>, SmolStr) {
    let text = |field: &str| value.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    let name = text("name").map(|name| (text("namespace").unwrap_or_default().into(), name.into()));
    (name, text("resourceVersion").unwrap_or_default().into())
}

fn masked(raw: &RawValue, fields: &'static FieldMask) -> Result<Value, serde_json::Error> {
    fields.read(raw.get(), &Allowance::new(MOST_OF_OBJECT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kubernetes::kinds::RESOURCES;

    fn services() -> &'static WatchedResource {
        RESOURCES.iter().find(|resource| resource.plural == "services").unwrap()
    }

    #[test]
    fn one_object_that_cannot_be_read_is_its_own_error() {
        let text = r#"{"kind": "ServiceList", "metadata": {"resourceVersion": "9", "continue": "c"}, "items": [
            {"metadata": {"name": "a", "namespace": "n", "resourceVersion": "3"}, "spec": {"clusterIP": 1e999}},
            {"metadata": {"name": "b", "namespace": "n", "resourceVersion": "4"}, "spec": {}}
        ]}"#;
        let page = page(text.as_bytes()).unwrap();
        assert_eq!((page.metadata.resource_version.as_str(), page.metadata.next.as_str()), ("9", "c"));
        let items: Vec<DecodedObject> = page.items(services(), "v1").collect();
        assert_eq!(items[0].name, Some(("n".into(), "a".into())));
        assert!(items[0].content.as_ref().unwrap_err().contains("out of range"), "{items:?}");
        assert_eq!(items[1].content.as_ref().unwrap()["kind"], "Service");
        assert_eq!(items[1].version, "4");
    }

    #[test]
    fn an_object_of_too_many_values_is_its_own_error() {
        let ports = vec!["{\"port\":1}"; 200_000].join(",");
        let text = format!(
            r#"{{"metadata": {{"resourceVersion": "9"}}, "items": [
                {{"metadata": {{"name": "a", "namespace": "n", "resourceVersion": "3"}}, "spec": {{"ports": [{ports}]}}}},
                {{"metadata": {{"name": "b", "namespace": "n", "resourceVersion": "4"}}, "spec": {{}}}}
            ]}}"#
        );
        let page = page(text.as_bytes()).unwrap();
        let items: Vec<DecodedObject> = page.items(services(), "v1").collect();
        assert_eq!((&items[0].name, items[0].version.as_str()), (&Some(("n".into(), "a".into())), "3"));
        assert!(items[0].content.as_ref().unwrap_err().contains("more than 96 MB of memory"), "{:?}", items[0].content.as_ref().err());
        assert!(items[1].content.is_ok());
    }

    #[test]
    fn of_a_pods_conditions_only_what_is_read_is_kept() {
        let text = r#"{"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [{
            "metadata": {"name": "a", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "reason": "x"}]}
        }]}"#;
        let pods = RESOURCES.iter().find(|resource| resource.plural == "pods").unwrap();
        let page = page(text.as_bytes()).unwrap();
        let items: Vec<DecodedObject> = page.items(pods, "v1").collect();
        let read = crate::api::parse(items[0].content.as_ref().unwrap(), &"c".into());
        let crate::api::Spec::Pod(pod) = &read.objects[0].spec else { panic!("a pod") };
        assert!(pod.ready && pod.terminating);
        let kept = serde_json::json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(items[0].content.as_ref().unwrap()["status"]["conditions"], kept);
    }

    #[test]
    fn lines_of_a_watch() {
        let read = |text: &str| watch_event(text, services(), "v1");
        let applied = read(r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"n"}}}"#);
        assert!(matches!(applied, Ok(WatchEvent::Applied(DecodedObject { name: Some(_), .. }))), "{applied:?}");
        let bookmark = read(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#);
        assert!(matches!(bookmark, Ok(WatchEvent::Bookmark(version)) if version == "12"));
        let failure = read(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#);
        assert!(matches!(failure, Ok(WatchEvent::Error(ApiStatus { code: 410, .. }))));
        assert!(read(r#"{"type":"ODD","object":{}}"#).is_err());
        assert!(read("<html>").is_err());
    }
}

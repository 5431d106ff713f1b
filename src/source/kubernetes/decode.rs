//! Reads what the API server answers: pages of a list, lines of a watch, one object at a time.
//!
//! Objects are cut out first and read one by one, so that one which cannot be read is that one's error and not the
//! list's.

use serde::{Deserialize, de::DeserializeSeed};
use serde_json::{Value, value::RawValue};
use smol_str::SmolStr;

use super::{keep::Keep, kinds::Resource};
use crate::api::Kind;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    /// Of the list as a whole.
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    /// The objects, not read yet.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMetadata {
    /// The state of the whole collection.
    pub(super) resource_version: String,
    /// Asks for the next page; empty: this was the last.
    #[serde(rename = "continue")]
    pub(super) next: String,
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// The object is there, as it is now.
    Applied(Item),
    /// The object is gone.
    Deleted(Item),
    /// Nothing happened up to here.
    Bookmark(SmolStr),
    /// The server ends the watch and says why.
    Failure(Status),
}

/// One object, pruned.
#[derive(Debug)]
pub(super) struct Item {
    /// Namespace and name; `None`: it could not be read so far.
    pub(super) name: Option<Name>,
    /// `metadata.resourceVersion`
    pub(super) version: SmolStr,
    /// Its content, or why it cannot be read.
    pub(super) content: Result<Value, String>,
}

/// Namespace and name of an object.
pub(super) type Name = (SmolStr, SmolStr);

/// `v1 Status`: why a request failed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    /// As an HTTP status.
    pub(super) code: u16,
    /// One word: `Expired`, `Forbidden`.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
}

static HEAD: Keep =
    Keep::Fields(&[("metadata", Keep::Fields(&[("name", Keep::All), ("namespace", Keep::All), ("resourceVersion", Keep::All)]))]);

/// Reads a page of a list without reading its objects.
///
/// # Errors
/// When it is no list.
pub(super) fn page(body: &[u8]) -> Result<Page<'_>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// Reads one line of a watch.
///
/// # Errors
/// When it is no event.
pub(super) fn line(line: &[u8], resource: &Resource, version: &str) -> Result<Line, serde_json::Error> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        what: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let Event { what, object } = serde_json::from_slice(line)?;
    Ok(match what {
        "ADDED" | "MODIFIED" => Line::Applied(item(object, resource, version)),
        "DELETED" => Line::Deleted(item(object, resource, version)),
        "BOOKMARK" => Line::Bookmark(head(object).1),
        "ERROR" => Line::Failure(serde_json::from_str(object.get())?),
        other => return Err(serde::de::Error::custom(format!("event of unknown type {other:?}"))),
    })
}

impl<'a> Page<'a> {
    /// The objects, each read when asked for.
    pub(super) fn items(&self, resource: &'static Resource, version: &'static str) -> impl Iterator<Item = Item> {
        self.items.iter().flatten().map(move |raw| item(raw, resource, version))
    }
}

fn item(raw: &RawValue, resource: &Resource, version: &str) -> Item {
    match pruned(raw, resource.keep) {
        Ok(mut value) => {
            let (name, revision) = name_of(&value);
            claim(&mut value, resource, version);
            Item { name, version: revision, content: Ok(value) }
        }
        Err(why) => {
            let (name, revision) = head(raw);
            Item { name, version: revision, content: Err(why.to_string()) }
        }
    }
}

// Objects in lists of built-in kinds do not say what they are.
fn claim(value: &mut Value, resource: &Resource, version: &str) {
    let Value::Object(fields) = value else { return };
    let group = resource.group;
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    fields.insert("apiVersion".to_owned(), Value::String(api_version));
    fields.insert("kind".to_owned(), Value::String(resource.kind.as_str().to_owned()));
    if resource.kind == Kind::MeshConfig {
        fields.insert("kind".to_owned(), "ConfigMap".into());
        // What a revision's ConfigMap is called besides makes no difference.
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.insert("name".to_owned(), "istio".into());
        }
    }
}

fn head(raw: &RawValue) -> (Option<Name>, SmolStr) {
    pruned(raw, &HEAD).map(|value| name_of(&value)).unwrap_or_default()
}

fn name_of(value: &Value) -> (Option<Name>, SmolStr) {
    let text = |field: &str| value.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    let name = text("name").map(|name| (text("namespace").unwrap_or_default().into(), name.into()));
    (name, text("resourceVersion").unwrap_or_default().into())
}

fn pruned(raw: &RawValue, keep: &'static Keep) -> Result<Value, serde_json::Error> {
    keep.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kubernetes::kinds::RESOURCES;

    fn services() -> &'static Resource {
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
        let items: Vec<Item> = page.items(services(), "v1").collect();
        assert_eq!(items[0].name, Some(("n".into(), "a".into())));
        assert!(items[0].content.as_ref().unwrap_err().contains("out of range"), "{items:?}");
        assert_eq!(items[1].content.as_ref().unwrap()["kind"], "Service");
        assert_eq!(items[1].version, "4");
    }

    #[test]
    fn lines_of_a_watch() {
        let read = |text: &str| line(text.as_bytes(), services(), "v1");
        let applied = read(r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"n"}}}"#);
        assert!(matches!(applied, Ok(Line::Applied(Item { name: Some(_), .. }))), "{applied:?}");
        let bookmark = read(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#);
        assert!(matches!(bookmark, Ok(Line::Bookmark(version)) if version == "12"));
        let failure = read(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#);
        assert!(matches!(failure, Ok(Line::Failure(Status { code: 410, .. }))));
        assert!(read(r#"{"type":"ODD","object":{}}"#).is_err());
        assert!(read("<html>").is_err());
    }
}

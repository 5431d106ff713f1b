//! Messages that come as JSON within a `TypedStruct`: Envoy makes them into messages of the type that it names, and refuses what is none.

use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Map, Value};

use super::{ANY, Mistake, TYPE, fields, message_type, messages, mistake, parse, unknown_fields, within};

const NAMES: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];
const URL: &str = "type_url";
const CONTENT: &str = "value";

/// What is found in the `TypedStruct`s of a message that can be read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The paths of fields that the messages do not have.
    pub(super) unknown: Vec<String>,
    /// The types that are not known here, by the paths of the fields that name them.
    pub(super) types: Vec<(String, String)>,
}

/// Returns whether a type is one of those that hold JSON.
pub(crate) fn is_typed_struct(full_name: &str) -> bool {
    NAMES.contains(&full_name)
}

/// Returns the message that a `TypedStruct` holds, if its type is known.
pub(super) fn content(holder: &DynamicMessage) -> Option<DynamicMessage> {
    let url = holder.get_field_by_name(URL)?;
    let kind = message_type(url.as_str()?).ok()?;
    let content = holder.get_field_by_name(CONTENT)?;
    parse(&kind, &serde_json::to_value(content.as_message()?).ok()?).ok()
}

/// Reads what stands in all `TypedStruct`s of a message.
///
/// # Errors
/// When something is no message of its type: the mistake names the innermost field that cannot be read.
pub(super) fn check(kind: &MessageDescriptor, value: &Value, at: &str, found: &mut Found) -> Result<(), Mistake> {
    if let Some(entries) = entries(kind, value) {
        return check_content(entries, at, found);
    }
    for of in fields(kind, value) {
        let Some(field) = of.field else { continue };
        let at = within(at, of.name);
        for (step, kind, value) in messages(&field, of.value) {
            check(&kind, value, &format!("{at}{step}"), found)?;
        }
    }
    Ok(())
}

/// Returns the fields of a `TypedStruct`, if the message is one.
fn entries<'v>(kind: &MessageDescriptor, value: &'v Value) -> Option<&'v Map<String, Value>> {
    let entries = value.as_object()?;
    let is_one = match (kind.full_name(), entries.get(TYPE)) {
        (ANY, Some(url)) => url.as_str().is_some_and(|url| is_typed_struct(url.rsplit('/').next().unwrap_or(url))),
        (name, _) => is_typed_struct(name),
    };
    is_one.then_some(entries)
}

fn check_content(entries: &Map<String, Value>, at: &str, found: &mut Found) -> Result<(), Mistake> {
    let written = [URL, "typeUrl"].into_iter().find_map(|name| Some((name, entries.get(name)?.as_str()?)));
    let Some((name, url)) = written.filter(|(_, url)| !url.is_empty()) else { return Ok(()) };
    let Ok(kind) = message_type(url) else {
        found.types.push((within(at, name), url.to_owned()));
        return Ok(());
    };
    let Some(content) = entries.get(CONTENT).filter(|content| !content.is_null()) else { return Ok(()) };
    let at = within(at, CONTENT);
    if let Err(what) = parse(&kind, content) {
        return Err(mistake(&kind, content, at, what));
    }
    unknown_fields(&kind, content, &at, &mut found.unknown);
    check(&kind, content, &at, found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::reflection::{Mistake, Written, from_json, named};

    const FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";

    fn read(holder: &str, url: &str, content: serde_json::Value) -> Result<Written, Mistake> {
        let config =
            json!({"@type": format!("type.googleapis.com/{holder}"), "type_url": format!("type.googleapis.com/{url}"), "value": content});
        from_json(FILTER, &json!({"name": "x", "typed_config": config}))
    }

    #[test]
    fn what_it_holds_is_held_against_the_type_that_it_names() {
        let limit = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
        for holder in super::NAMES {
            let bucket = json!({"max_tokens": 1, "fill_interval": "60s"});
            let written = read(holder, limit, json!({"stat_prefix": "a", "token_bucket": bucket, "speed": 1})).unwrap();
            assert_eq!((written.unknown, written.unknown_types), (vec!["typed_config.value.speed".to_owned()], Vec::new()));
            let mistake = read(holder, limit, json!({"token_bucket": {"max_tokens": "many"}})).unwrap_err();
            assert_eq!(mistake.path, "typed_config.value.token_bucket.max_tokens");
            let written = read(holder, "no.Such", json!({"a": [1]})).unwrap();
            let expected = ("typed_config.type_url".to_owned(), "type.googleapis.com/no.Such".to_owned());
            assert_eq!((written.unknown, written.unknown_types), (Vec::new(), vec![expected]));
        }
    }

    #[test]
    fn one_within_another_is_read_too() {
        let inner = json!({"@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer", "value": {"max_request_bytes": []}});
        let outer = json!({"name": "y", "typed_config": inner});
        let mistake = read("udpa.type.v1.TypedStruct", FILTER, outer).unwrap_err();
        assert_eq!(mistake.path, "typed_config.value.typed_config.value.max_request_bytes");
    }

    #[test]
    fn what_it_names_is_found() {
        let asking = json!({"domain": "d", "rate_limit_service": {"grpc_service": {"envoy_grpc": {"cluster_name": "limits"}}}, "stage": 3});
        let kind = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";
        let written = read("udpa.type.v1.TypedStruct", kind, asking).unwrap();
        let named = named(FILTER, &written.message);
        assert_eq!(named.clusters.into_iter().collect::<Vec<_>>(), ["limits"]);
        let types: Vec<_> = named.contents.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(types, [kind]);
    }
}

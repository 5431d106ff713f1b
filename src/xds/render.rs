//! Resources as JSON, the way config dumps and `istiod-lite translate` show them: names of fields as in the protos,
//! fields at their default left out, `Any` opened.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};

use super::{redacted::redacted, resource::Resource};
use crate::proto;

// Decoded on first use, as it takes tens of milliseconds and megabytes.
static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).map_err(|error| error.to_string()));

/// Renders a message by its type URL. What cannot be shown becomes a text that says why.
pub fn to_json(type_url: &str, body: &[u8]) -> Value {
    shown(type_url, body).unwrap_or_else(|error| Value::String(format!("cannot be shown: {error}")))
}

/// Renders a resource, a secret without its key.
pub fn resource_to_json(resource: &Resource) -> Value {
    to_json(resource.kind.type_url(), &redacted(resource))
}

/// Renders a message as the `Any` of a resource is shown, with its type.
pub fn to_json_any(type_url: &str, body: &[u8]) -> Value {
    let mut value = to_json(type_url, body);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("@type".to_owned(), json!(type_url));
    }
    value
}

/// Returns the bytes of a message that is written as JSON by the names of the protos.
///
/// # Errors
/// When it is no such message.
pub(super) fn from_json(type_url: &str, value: &Value) -> Result<Vec<u8>, String> {
    let message = DynamicMessage::deserialize(descriptor(type_url)?, value).map_err(|error| error.to_string())?;
    Ok(message.encode_to_vec())
}

fn shown(type_url: &str, body: &[u8]) -> Result<Value, String> {
    let message = DynamicMessage::decode(descriptor(type_url)?, body).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    let mut value = message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())?;
    whole_numbers(&mut value);
    Ok(value)
}

// A double that is a whole number is written as one (`100`, not `100.0`), as other tools for protobuf do.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15);
            if let Some(whole) = float {
                *value = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

fn descriptor(type_url: &str) -> Result<MessageDescriptor, String> {
    let pool = POOL.as_ref().map_err(Clone::clone)?;
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    pool.get_message_by_name(name).ok_or_else(|| format!("unknown type {type_url}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::udpa::TypedStruct, translate::wkt, xds::resource_type::ResourceType};
    use envoy_types::pb::{
        envoy::config::cluster::v3::Cluster,
        google::protobuf::{Any, Duration},
    };

    #[test]
    fn any_is_opened_and_defaults_are_left_out() {
        let config = TypedStruct {
            type_url: "type.googleapis.com/some.Filter".into(),
            value: Some(wkt::structure([("on", wkt::bool_value(true))])),
        };
        let cluster = Cluster {
            name: "a".into(),
            connect_timeout: Some(Duration { seconds: 0, nanos: 100_000_000 }),
            filters: vec![envoy_types::pb::envoy::config::cluster::v3::Filter {
                name: "f".into(),
                typed_config: Some(Any { type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".into(), value: config.encode_to_vec() }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let shown = to_json(ResourceType::Cluster.type_url(), &cluster.encode_to_vec());
        let expected = json!({
            "name": "a",
            "connect_timeout": "0.100s",
            "filters": [{"name": "f", "typed_config": {
                "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                "type_url": "type.googleapis.com/some.Filter",
                "value": {"on": true},
            }}],
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_cannot_be_shown_says_why() {
        assert_eq!(to_json("type.googleapis.com/no.Such", &[]), json!("cannot be shown: unknown type type.googleapis.com/no.Such"));
    }
}

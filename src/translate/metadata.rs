//! `filter_metadata` and well-known values, as istioctl and telemetry read them (contract §3.1 Metadata).

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{Duration, ListValue, Struct, Value, value},
};

/// The key of Istio's own metadata.
pub const ISTIO: &str = "istio";

/// `filter_metadata: {istio: fields}`; `None` without fields.
pub fn istio<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Option<Metadata> {
    let fields = structure(fields);
    (!fields.fields.is_empty()).then(|| filter_metadata([(ISTIO, fields)]))
}

/// `filter_metadata: {istio: {config: path}}`
pub fn istio_config(path: &str) -> Metadata {
    filter_metadata([(ISTIO, structure([("config", text(path))]))])
}

/// Metadata with these keys.
pub fn filter_metadata<'a>(entries: impl IntoIterator<Item = (&'a str, Struct)>) -> Metadata {
    let filter_metadata = entries.into_iter().map(|(key, fields)| (key.to_owned(), fields)).collect::<HashMap<_, _>>();
    Metadata { filter_metadata, ..Default::default() }
}

/// A message of these fields.
pub fn structure<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

/// A text.
pub fn text(text: impl Into<String>) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.into())) }
}

/// True or false.
pub fn boolean(boolean: bool) -> Value {
    Value { kind: Some(value::Kind::BoolValue(boolean)) }
}

/// A nested message.
pub fn nested(fields: Struct) -> Value {
    Value { kind: Some(value::Kind::StructValue(fields)) }
}

/// A list.
pub fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(value::Kind::ListValue(ListValue { values })) }
}

/// A duration as protobuf writes it; what is too long for it becomes its longest.
pub fn duration(duration: std::time::Duration) -> Duration {
    Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) }
}

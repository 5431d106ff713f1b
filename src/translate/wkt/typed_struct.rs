//! `TypedStruct`: configuration of filters whose messages only Istio's proxy knows, in the form of their JSON.

use envoy_types::pb::google::protobuf::{Any, NullValue};
use prost::Message;

/// A JSON value, with objects in the order in which they are to be encoded: `google.protobuf.Struct` holds a map,
/// and a map would encode in another order each time.
#[derive(Clone, Debug)]
pub enum Value {
    /// `true`, `false`
    Bool(bool),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// An object, sorted by key.
    Object(Vec<(&'static str, Value)>),
}

/// Returns `type.googleapis.com/udpa.type.v1.TypedStruct` of a type with these fields.
pub fn typed_struct(type_url: &str, fields: Vec<(&'static str, Value)>) -> Any {
    let message = TypedStruct { type_url: type_url.into(), value: Some(Struct::of(fields)) };
    Any { type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".into(), value: message.encode_to_vec() }
}

/// Returns the encoding of a `google.protobuf.Struct` that is this JSON object.
pub fn encode_json(fields: &serde_json::Map<String, serde_json::Value>) -> Vec<u8> {
    Struct::from(fields).encode_to_vec()
}

// These messages have the wire form of TypedStruct, Struct, Value and ListValue, with each map written as the list of
// entries that it is on the wire.

#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(message, repeated, tag = "1")]
    fields: Vec<FieldsEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldsEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<WireValue>,
}

#[derive(Clone, PartialEq, Message)]
struct WireValue {
    #[prost(oneof = "ValueKind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<ValueKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ValueKind {
    #[prost(enumeration = "NullValue", tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<WireValue>,
}

impl Struct {
    fn of(fields: Vec<(&'static str, Value)>) -> Self {
        Self { fields: fields.into_iter().map(|(key, value)| FieldsEntry { key: key.into(), value: Some(value.into()) }).collect() }
    }
}

impl From<&serde_json::Map<String, serde_json::Value>> for Struct {
    fn from(fields: &serde_json::Map<String, serde_json::Value>) -> Self {
        let entry = |(key, value): (&String, &serde_json::Value)| FieldsEntry { key: key.clone(), value: Some(value.into()) };
        Self { fields: fields.iter().map(entry).collect() }
    }
}

impl From<&serde_json::Value> for WireValue {
    fn from(value: &serde_json::Value) -> Self {
        let kind = match value {
            serde_json::Value::Null => ValueKind::Null(NullValue::NullValue.into()),
            serde_json::Value::Bool(value) => ValueKind::Bool(*value),
            serde_json::Value::Number(value) => ValueKind::Number(value.as_f64().unwrap_or_default()),
            serde_json::Value::String(value) => ValueKind::Text(value.clone()),
            serde_json::Value::Array(values) => ValueKind::List(List { values: values.iter().map(Self::from).collect() }),
            serde_json::Value::Object(fields) => ValueKind::Struct(fields.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Value> for WireValue {
    fn from(value: Value) -> Self {
        let kind = match value {
            Value::Bool(value) => ValueKind::Bool(value),
            Value::Text(value) => ValueKind::Text(value),
            Value::List(values) => ValueKind::List(List { values: values.into_iter().map(Self::from).collect() }),
            Value::Object(fields) => ValueKind::Struct(Struct::of(fields)),
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{Struct, value::Kind};

    use super::*;

    #[test]
    fn json_keeps_its_types() {
        let json = serde_json::json!({"a": null, "b": 1.5, "c": "d", "e": [true, {"f": 2}]});
        let decoded = Struct::decode(encode_json(json.as_object().unwrap()).as_slice()).unwrap();
        let kind = |name: &str| decoded.fields[name].kind.clone();
        assert_eq!(kind("a"), Some(Kind::NullValue(0)));
        assert_eq!((kind("b"), kind("c")), (Some(Kind::NumberValue(1.5)), Some(Kind::StringValue("d".into()))));
        let Some(Kind::ListValue(list)) = kind("e") else { panic!("not a list") };
        let Some(Kind::StructValue(inner)) = &list.values[1].kind else { panic!("not an object") };
        assert_eq!(inner.fields["f"].kind, Some(Kind::NumberValue(2.0)));
    }

    #[test]
    fn it_decodes_as_the_message_it_stands_for() {
        let any = typed_struct("type.example/x", vec![("a", Value::Bool(true)), ("b", Value::List(vec![Value::Object(vec![])]))]);
        let decoded = crate::proto::udpa::TypedStruct::decode(any.value.as_slice()).unwrap();
        assert_eq!(decoded.type_url, "type.example/x");
        let fields = decoded.value.unwrap().fields;
        assert_eq!(fields["a"].kind, Some(Kind::BoolValue(true)));
        let Some(Kind::ListValue(list)) = &fields["b"].kind else { panic!("not a list") };
        assert_eq!(list.values[0].kind, Some(Kind::StructValue(Struct::default())));
    }
}

//! `TypedStruct`: configuration of filters whose messages only Istio's proxy knows, in the form of their JSON.

use envoy_types::pb::google::protobuf::Any;
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

/// Returns the encoding of a `google.protobuf.Struct` with these fields.
pub fn encode_struct(fields: Vec<(&'static str, Value)>) -> Vec<u8> {
    Struct::of(fields).encode_to_vec()
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
    #[prost(oneof = "ValueKind", tags = "3, 4, 5, 6")]
    kind: Option<ValueKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ValueKind {
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

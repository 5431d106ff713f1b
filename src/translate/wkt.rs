//! Protobuf's well-known types, as fields of Envoy's messages hold them.

pub mod typed_struct;

use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, ListValue, Struct, UInt32Value, UInt64Value, Value, value};
use prost::{Message, Name};

/// Wraps a flag for an optional field.
pub fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// Wraps a number for an optional field.
pub fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// Wraps a long number for an optional field.
pub fn uint64(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Returns a duration; one that is too long for protobuf becomes its longest.
pub fn duration(duration: std::time::Duration) -> Duration {
    Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: duration.subsec_nanos().cast_signed() }
}

/// Packs a message into an `Any`. The message must not hold maps of more than one entry: their order is not fixed.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Returns a `Struct` of these fields.
pub fn structure<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

/// Returns a text in a `Struct`.
pub fn text_value(text: impl Into<String>) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.into())) }
}

/// Returns a flag in a `Struct`.
pub fn bool_value(boolean: bool) -> Value {
    Value { kind: Some(value::Kind::BoolValue(boolean)) }
}

/// Returns an object in a `Struct`.
pub fn struct_value(fields: Struct) -> Value {
    Value { kind: Some(value::Kind::StructValue(fields)) }
}

/// Returns a list in a `Struct`.
pub fn list_value(values: Vec<Value>) -> Value {
    Value { kind: Some(value::Kind::ListValue(ListValue { values })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_keeps_its_nanoseconds_and_never_overflows() {
        assert_eq!(duration(std::time::Duration::new(2, 999_999_999)), Duration { seconds: 2, nanos: 999_999_999 });
        assert_eq!(duration(std::time::Duration::MAX).seconds, i64::MAX);
    }
}

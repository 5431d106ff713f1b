//! Fields written straight on the wire, where building a message first would cost more than what it says.

use prost::encoding::{WireType, encode_key, encode_varint};

/// A text field; an empty one is left out.
pub(super) fn text(bytes: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        encode_key(field, WireType::LengthDelimited, bytes);
        encode_varint(text.len() as u64, bytes);
        bytes.extend_from_slice(text.as_bytes());
    }
}

/// A number field; zero is left out.
pub(super) fn number(bytes: &mut Vec<u8>, field: u32, number: u32) {
    if number != 0 {
        encode_key(field, WireType::Varint, bytes);
        encode_varint(number.into(), bytes);
    }
}

/// A field of a length that is known once it is written. One byte holds most lengths.
pub(super) fn nested(bytes: &mut Vec<u8>, field: u32, content: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, bytes);
    let at = bytes.len();
    bytes.push(0);
    content(bytes);
    let length = bytes.len() - at - 1;
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes[at] = short,
        _ => {
            let mut long = Vec::with_capacity(4);
            encode_varint(length as u64, &mut long);
            bytes.splice(at..=at, long);
        }
    }
}

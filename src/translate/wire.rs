//! Fields written straight on the wire, where building a message first would cost more than what it says, or would
//! encode in another order each time.

use prost::encoding::{WireType, encode_key, encode_varint};

/// Writes a text field; an empty one is left out.
pub(crate) fn text(bytes: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        message(bytes, field, text.as_bytes());
    }
}

/// Writes a number field; zero is left out.
pub(crate) fn number(bytes: &mut Vec<u8>, field: u32, number: u32) {
    if number != 0 {
        chosen_number(bytes, field, number);
    }
}

/// Writes a number field of a `oneof`, where zero is written too: it says which one was chosen.
pub(crate) fn chosen_number(bytes: &mut Vec<u8>, field: u32, number: u32) {
    encode_key(field, WireType::Varint, bytes);
    encode_varint(number.into(), bytes);
}

/// Writes a field of a message that is encoded already.
pub(crate) fn message(bytes: &mut Vec<u8>, field: u32, encoded: &[u8]) {
    encode_key(field, WireType::LengthDelimited, bytes);
    encode_varint(encoded.len() as u64, bytes);
    bytes.extend_from_slice(encoded);
}

/// Writes a field of a message whose length is known once it is written. One byte holds most lengths.
pub(crate) fn nested(bytes: &mut Vec<u8>, field: u32, content: impl FnOnce(&mut Vec<u8>)) {
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

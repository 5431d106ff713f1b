//! Reads one field of an encoded message at a time.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// A field on the wire: from its key at `start` over its content to its `end`.
#[derive(Clone, Copy)]
pub(super) struct FieldAt {
    pub(super) number: u32,
    pub(super) wire: WireType,
    pub(super) start: usize,
    pub(super) content: usize,
    pub(super) end: usize,
}

/// Returns the field whose key stands at `start`; `None` where the bytes are no message.
pub(super) fn field_at(bytes: &[u8], start: usize) -> Option<FieldAt> {
    // Nearly all fields: number below 16, content below 128 bytes, so key and length are a byte each.
    if let Some(&[key @ 0x08..0x80, length @ 0..0x80]) = bytes.get(start..start + 2)
        && key & 7 == WireType::LengthDelimited as u8
    {
        let content = start + 2;
        let end = content + usize::from(length);
        let field = FieldAt { number: u32::from(key >> 3), wire: WireType::LengthDelimited, start, content, end };
        return (end <= bytes.len()).then_some(field);
    }
    let mut rest = bytes.get(start..)?;
    let (number, wire) = decode_key(&mut rest).ok()?;
    if wire == WireType::LengthDelimited {
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let content = bytes.len() - rest.len();
        let end = content.checked_add(length).filter(|end| *end <= bytes.len())?;
        return Some(FieldAt { number, wire, start, content, end });
    }
    let content = bytes.len() - rest.len();
    skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?;
    Some(FieldAt { number, wire, start, content, end: bytes.len() - rest.len() })
}

//! Reads one field of an encoded message at a time.

use prost::encoding::WireType;

/// A field on the wire: from its key at `start` over its content to its `end`.
#[derive(Clone, Copy)]
pub(super) struct FieldAt {
    pub(super) number: u32,
    pub(super) wire: WireType,
    pub(super) start: usize,
    pub(super) content: usize,
    pub(super) end: usize,
}

/// Returns the field whose key stands at `start`; `None` where the bytes are no message. Groups, which Envoy's API has none of, are
/// not read.
#[inline]
pub(super) fn field_at(bytes: &[u8], start: usize) -> Option<FieldAt> {
    let (key, content) = varint(bytes, start)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
    let (wire, content, end) = match key & 7 {
        0 => (WireType::Varint, content, varint(bytes, content)?.1),
        1 => (WireType::SixtyFourBit, content, content + 8),
        2 => {
            let (length, content) = varint(bytes, content)?;
            (WireType::LengthDelimited, content, content.checked_add(usize::try_from(length).ok()?)?)
        }
        5 => (WireType::ThirtyTwoBit, content, content + 4),
        _ => return None,
    };
    (end <= bytes.len()).then_some(FieldAt { number, wire, start, content, end })
}

/// Returns the variable integer that stands at `at`, and where it ends.
#[inline]
pub(super) fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    // Nearly all are below 128: numbers of fields, lengths, and values.
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((first.into(), at + 1));
    }
    let mut value = u64::from(first & 0x7f);
    for place in 1..10 {
        let byte = *bytes.get(at + place)?;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some((value, at + place + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::encoding::{encode_key, encode_varint};

    use super::*;

    #[test]
    fn fields_are_read_as_they_were_written() {
        for number in [1, 15, 16, 2047, 2048, 536_870_911] {
            for value in [0, 1, 127, 128, 300, 16_384, u64::MAX] {
                let mut bytes = Vec::new();
                encode_key(number, WireType::Varint, &mut bytes);
                let content = bytes.len();
                encode_varint(value, &mut bytes);
                let field = field_at(&bytes, 0).unwrap();
                assert_eq!((field.number, field.content, field.end), (number, content, bytes.len()));
                assert_eq!(varint(&bytes, content), Some((value, bytes.len())));
                assert!(field_at(&bytes[..bytes.len() - 1], 0).is_none());
            }
        }
        for length in [0, 1, 127, 128, 20_000] {
            let mut bytes = vec![0x0a];
            encode_varint(length, &mut bytes);
            let content = bytes.len();
            bytes.resize(content + usize::try_from(length).unwrap(), 7);
            let field = field_at(&bytes, 0).unwrap();
            assert_eq!((field.number, field.content, field.end), (1, content, bytes.len()));
        }
    }

    #[test]
    fn what_is_no_field_is_not_read() {
        // Nothing, field 0, a group, a length beyond the end, an integer that does not end.
        for bytes in [&[][..], &[0x02, 0], &[0x0b], &[0x0a, 2, 0], &[0xff; 11]] {
            assert!(field_at(bytes, 0).is_none(), "{bytes:?}");
        }
    }
}

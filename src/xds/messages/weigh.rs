//! How much memory a message takes when it is decoded, told from its bytes without decoding it.

/// What one field may cost decoded, besides its bytes: a string with its allocation, or an entry of a map, in a list that was
/// just doubled.
const PER_FIELD: usize = 96;

/// How deep messages are looked into; prost reads no deeper.
const DEPTH: usize = 100;

/// Returns an upper bound of what the message takes decoded. It knows no schema: whatever can be a message counts as one, so
/// that text may be taken for more than it is, and nothing for less. The work is linear: no byte is looked at twice but for
/// those before the place where text turns out to be no message.
pub(in crate::xds) fn decoded_size(message: &[u8]) -> usize {
    let mut fields = 0;
    walk(message, DEPTH, &mut fields);
    message.len() + fields * PER_FIELD
}

/// Counts the fields, up to where the bytes are no longer a message.
fn walk(mut rest: &[u8], depth: usize, fields: &mut usize) {
    while !rest.is_empty() {
        let Some((field, after)) = split_field(rest) else { return };
        *fields += 1;
        if let Field::Bytes(content) = field
            && depth > 0
        {
            walk(content, depth - 1, fields);
        }
        rest = after;
    }
}

/// The value of a field, as far as it matters here.
enum Field<'a> {
    Number,
    Bytes(&'a [u8]),
}

/// Returns the first field and what follows it.
fn split_field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    if key >> 3 == 0 {
        return None;
    }
    match key & 7 {
        0 => varint(rest).map(|(_, rest)| (Field::Number, rest)),
        1 => rest.get(8..).map(|rest| (Field::Number, rest)),
        2 => {
            let (length, rest) = varint(rest)?;
            let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Field::Bytes(content), rest))
        }
        // The beginning and the end of a group, which is skipped when it is decoded.
        3 | 4 => Some((Field::Number, rest)),
        5 => rest.get(4..).map(|rest| (Field::Number, rest)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (number, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * number);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[number + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryRequest},
        google::protobuf::{Struct, Value, value::Kind},
    };
    use prost::Message;

    use super::*;

    fn fields(message: &impl Message) -> usize {
        let bytes = message.encode_to_vec();
        (decoded_size(&bytes) - bytes.len()) / PER_FIELD
    }

    #[test]
    fn fields_are_counted_at_every_depth() {
        assert_eq!(decoded_size(&[]), 0);
        let names = DeltaDiscoveryRequest { resource_names_subscribe: vec![String::new(); 1000], ..Default::default() };
        assert_eq!(fields(&names), 1000);
        // Each entry is a field, its key, its value, and the number in that.
        let number = |text: usize| (format!("~{text}"), Value { kind: Some(Kind::NumberValue(1.0)) });
        let metadata = Struct { fields: (0..1000).map(number).collect() };
        let node = Node { metadata: Some(metadata), ..Node::default() };
        let request = DeltaDiscoveryRequest { node: Some(node), ..Default::default() };
        assert_eq!(fields(&request), 2 + 4 * 1000);
    }

    #[test]
    fn bytes_that_are_no_message_end_the_count() {
        for bytes in [&[0xff; 40][..], &[0x07], &[0x12, 0x7f, 1], &[0x09, 1], &[0x00]] {
            assert_eq!(decoded_size(bytes), bytes.len());
        }
    }

    #[test]
    fn depth_costs_no_more_than_length() {
        // A message in a message in a message, deeper than prost reads.
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            let mut outer = vec![0x0a];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.append(&mut bytes);
            bytes = outer;
        }
        assert_eq!(decoded_size(&bytes), bytes.len() + (DEPTH + 1) * PER_FIELD);
    }
}

//! One encoding per content: protobuf maps are sorted, at every depth and inside every `Any`.
//!
//! envoy-types keeps protobuf maps in `HashMap`s, so equal messages encode differently. The bytes are put in order on
//! the wire format itself, guided by a table that the build derives from the descriptors: a subtree that can hold
//! neither map nor `Any` is copied unread.

use std::mem;

use prost::{
    Message, Name,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// A message type that can hold a map or an `Any`.
struct Shape {
    name: &'static str,
    /// By field number; the second part says where the field leads.
    fields: &'static [(u32, Field)],
}

/// Where a field leads; numbers are positions in [`SHAPES`].
#[derive(Clone, Copy)]
enum Field {
    Message(usize),
    Map(Option<usize>),
}

const ANY: &str = "google.protobuf.Any";

/// The canonical encoding of a message.
pub fn canonical<M: Message + Name>(message: &M) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    canonical_bytes(&M::full_name(), &encoded)
}

/// The canonical form of an encoded message of the named type. Bytes that are not such a message come back as they are.
pub fn canonical_bytes(full_name: &str, encoded: &[u8]) -> Vec<u8> {
    let Some(shape) = find(full_name) else { return encoded.to_vec() };
    let mut sorted = Vec::with_capacity(encoded.len());
    match write_message(shape, encoded, &mut sorted) {
        Some(()) => sorted,
        None => encoded.to_vec(),
    }
}

fn find(full_name: &str) -> Option<usize> {
    SHAPES.binary_search_by(|shape| shape.name.cmp(full_name)).ok()
}

fn write_message(shape: usize, mut bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if SHAPES[shape].name == ANY {
        return write_any(bytes, out);
    }
    let fields = SHAPES[shape].fields;
    let mut entries = Entries::default();
    while bytes.has_remaining() {
        let start = bytes;
        let (number, wire) = decode_key(&mut bytes).ok()?;
        if entries.number != number {
            entries.flush(out);
        }
        let field = fields.binary_search_by_key(&number, |(number, _)| *number).ok().map(|at| fields[at].1);
        match (wire, field) {
            (WireType::LengthDelimited, Some(Field::Message(inner))) => {
                let mut sorted = Vec::new();
                write_message(inner, take(&mut bytes)?, &mut sorted)?;
                write_delimited(number, &sorted, out);
            }
            (WireType::LengthDelimited, Some(Field::Map(value))) => {
                let entry = write_entry(value, take(&mut bytes)?)?;
                entries.number = number;
                entries.list.push(entry);
            }
            _ => {
                skip_field(wire, number, &mut bytes, DecodeContext::default()).ok()?;
                out.extend_from_slice(&start[..start.len() - bytes.len()]);
            }
        }
    }
    entries.flush(out);
    Some(())
}

/// Entries of one map field that follow each other on the wire.
#[derive(Default)]
struct Entries {
    number: u32,
    list: Vec<Vec<u8>>,
}

impl Entries {
    // The key is an entry's first field, so entries in byte order are in the order of (length of key, key): any fixed
    // order will do.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let mut list = mem::take(&mut self.list);
        list.sort_unstable();
        for entry in &list {
            write_delimited(self.number, entry, out);
        }
        self.number = 0;
    }
}

fn write_entry(value: Option<usize>, mut bytes: &[u8]) -> Option<Vec<u8>> {
    let Some(inner) = value else { return Some(bytes.to_vec()) };
    let mut out = Vec::with_capacity(bytes.len());
    while bytes.has_remaining() {
        let start = bytes;
        let (number, wire) = decode_key(&mut bytes).ok()?;
        if number == 2 && wire == WireType::LengthDelimited {
            let mut sorted = Vec::new();
            write_message(inner, take(&mut bytes)?, &mut sorted)?;
            write_delimited(number, &sorted, &mut out);
        } else {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).ok()?;
            out.extend_from_slice(&start[..start.len() - bytes.len()]);
        }
    }
    Some(out)
}

fn write_any(mut bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut type_url, mut value): (&[u8], &[u8]) = (&[], &[]);
    while bytes.has_remaining() {
        match decode_key(&mut bytes).ok()? {
            (1, WireType::LengthDelimited) => type_url = take(&mut bytes)?,
            (2, WireType::LengthDelimited) => value = take(&mut bytes)?,
            _ => return None,
        }
    }
    let full_name = std::str::from_utf8(type_url).ok()?.rsplit('/').next()?;
    write_delimited(1, type_url, out);
    match find(full_name) {
        _ if value.is_empty() => {}
        None => write_delimited(2, value, out),
        Some(shape) => {
            let mut sorted = Vec::with_capacity(value.len());
            write_message(shape, value, &mut sorted)?;
            write_delimited(2, &sorted, out);
        }
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn write_delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use envoy_types::pb::{
        envoy::config::{
            cluster::v3::Cluster,
            core::v3::{Metadata, TransportSocket, transport_socket::ConfigType},
        },
        google::protobuf::{Any, Struct, Value, value::Kind},
    };

    use super::*;

    fn structure(depth: u32) -> Struct {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let mut fields: HashMap<String, Value> = (0..8).map(|n| (format!("key-{n}"), text("value"))).collect();
        if depth > 0 {
            fields.insert("inner".into(), Value { kind: Some(Kind::StructValue(structure(depth - 1))) });
        }
        Struct { fields }
    }

    fn cluster() -> Cluster {
        let metadata =
            Metadata { filter_metadata: HashMap::from([("a".into(), structure(2)), ("b".into(), structure(0))]), ..Metadata::default() };
        let nested = Any { type_url: Metadata::type_url(), value: metadata.encode_to_vec() };
        Cluster {
            name: "outbound|80||a".into(),
            metadata: Some(metadata),
            transport_socket: Some(TransportSocket { name: "x".into(), config_type: Some(ConfigType::TypedConfig(nested)) }),
            typed_extension_protocol_options: HashMap::from([("p".into(), Any::default()), ("o".into(), Any::default())]),
            ..Cluster::default()
        }
    }

    #[test]
    fn equal_messages_have_one_encoding() {
        let raw: HashSet<Vec<u8>> = (0..50).map(|_| cluster().encode_to_vec()).collect();
        let canonical: HashSet<Vec<u8>> = (0..50).map(|_| canonical(&cluster())).collect();
        assert!(raw.len() > 1, "the test needs maps whose order varies");
        assert_eq!(canonical.len(), 1);
    }

    #[test]
    fn the_canonical_form_says_the_same() {
        let once = canonical(&cluster());
        let back = Cluster::decode(&once[..]).unwrap();
        assert_eq!(back.metadata, cluster().metadata);
        assert_eq!(canonical(&back), once);
    }

    #[test]
    fn bytes_of_another_kind_come_back_unchanged() {
        assert_eq!(canonical_bytes("envoy.config.cluster.v3.Cluster", &[0xff, 0xff]), [0xff, 0xff]);
        assert_eq!(canonical_bytes("no.such.Type", b"abc"), b"abc");
    }
}

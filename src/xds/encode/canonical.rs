//! One encoding per content: protobuf maps are sorted, at every depth and inside every `Any`.
//!
//! envoy-types keeps protobuf maps in `HashMap`s, so equal messages encode differently. The bytes are put in order on
//! the wire format itself, guided by a table that the build derives from the descriptors: a subtree that can hold
//! neither map nor `Any` is copied unread.

use std::sync::LazyLock;

use prost::{Message, Name, encoding::WireType};
use rustc_hash::FxHashMap;

use super::field_at::{FieldAt, field_at};

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// A message type that can hold a map or an `Any`.
struct Shape {
    name: &'static str,
    is_any: bool,
    /// By field number; the second part says where the field leads.
    fields: &'static [(u32, Field)],
}

/// Where a field leads; numbers are positions in [`SHAPES`].
#[derive(Clone, Copy)]
enum Field {
    Message(usize),
    Map(Option<usize>),
}

/// Encodes a message in canonical form.
pub fn canonical<M: Message + Name>(message: &M) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    // What was encoded just now can be read. Were it not so, unordered bytes would still mean the same.
    let _ = find(&M::full_name()).and_then(|shape| order_message(shape, &mut bytes));
    bytes
}

fn find(full_name: &str) -> Option<usize> {
    static BY_NAME: LazyLock<FxHashMap<&str, usize>> =
        LazyLock::new(|| SHAPES.iter().enumerate().map(|(at, shape)| (shape.name, at)).collect());
    BY_NAME.get(full_name).copied()
}

// Reordering changes no length, so it is done in place.
fn order_message(shape: usize, bytes: &mut [u8]) -> Option<()> {
    if SHAPES[shape].is_any {
        return order_any(bytes);
    }
    let fields = SHAPES[shape].fields;
    let mut entries = Entries::default();
    let mut at = 0;
    while at < bytes.len() {
        let field = field_at(bytes, at)?;
        if entries.number != field.number {
            entries.order(bytes);
        }
        let leads_to = fields.iter().find(|(number, _)| *number == field.number).map(|(_, to)| *to);
        match leads_to.filter(|_| field.wire == WireType::LengthDelimited) {
            Some(Field::Message(inner)) => order_message(inner, &mut bytes[field.content..field.end])?,
            Some(Field::Map(value)) => {
                order_entry(value, &mut bytes[field.content..field.end])?;
                entries.number = field.number;
                entries.list.push(field);
            }
            None => {}
        }
        at = field.end;
    }
    entries.order(bytes);
    Some(())
}

fn order_entry(value: Option<usize>, bytes: &mut [u8]) -> Option<()> {
    let Some(inner) = value else { return Some(()) };
    let mut at = 0;
    while at < bytes.len() {
        let field = field_at(bytes, at)?;
        if field.number == 2 && field.wire == WireType::LengthDelimited {
            order_message(inner, &mut bytes[field.content..field.end])?;
        }
        at = field.end;
    }
    Some(())
}

fn order_any(bytes: &mut [u8]) -> Option<()> {
    let (mut type_url, mut value) = (0..0, 0..0);
    let mut at = 0;
    while at < bytes.len() {
        let field = field_at(bytes, at)?;
        match (field.number, field.wire) {
            (1, WireType::LengthDelimited) => type_url = field.content..field.end,
            (2, WireType::LengthDelimited) => value = field.content..field.end,
            _ => return None,
        }
        at = field.end;
    }
    let full_name = std::str::from_utf8(&bytes[type_url]).ok()?.rsplit('/').next()?;
    match find(full_name) {
        Some(shape) => order_message(shape, &mut bytes[value]),
        None => Some(()),
    }
}

/// Entries of one map field that follow each other on the wire.
#[derive(Default)]
struct Entries {
    number: u32,
    list: Vec<FieldAt>,
}

impl Entries {
    // The key is an entry's first field, so entries in byte order are in the order of (length of key, key): any fixed
    // order will do.
    fn order(&mut self, bytes: &mut [u8]) {
        let content = |field: &FieldAt| &bytes[field.content..field.end];
        if let [first, .., last] = self.list[..]
            && !self.list.is_sorted_by(|a, b| content(a) <= content(b))
        {
            self.list.sort_unstable_by(|a, b| content(a).cmp(content(b)));
            let ordered = self.list.iter().fold(Vec::with_capacity(last.end - first.start), |mut ordered, field| {
                ordered.extend_from_slice(&bytes[field.start..field.end]);
                ordered
            });
            bytes[first.start..last.end].copy_from_slice(&ordered);
        }
        self.list.clear();
        self.number = 0;
    }
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
    fn bytes_that_are_not_a_message_are_given_up() {
        let cluster = find("envoy.config.cluster.v3.Cluster").unwrap();
        assert_eq!(order_message(cluster, &mut [0xff, 0xff]), None);
        assert_eq!(find("no.such.Type"), None);
    }
}

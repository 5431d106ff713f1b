//! One encoding per content: protobuf maps are sorted, at every depth and inside every `Any`.
//!
//! envoy-types keeps protobuf maps in `HashMap`s, so equal messages encode differently. The walk that holds Envoy's rules against
//! the bytes finds the maps on its way, and they are put in order on the wire format itself.

use prost::{Message, Name};

use super::constraints::{Violation, examine};

/// Encodes a message in canonical form.
pub fn canonical<M: Message + Name>(message: &M) -> Vec<u8> {
    checked(message).0
}

/// Encodes a message in canonical form, and returns with it what Envoy would refuse in it.
pub(super) fn checked<M: Message + Name>(message: &M) -> (Vec<u8>, Vec<Violation>) {
    let mut bytes = message.encode_to_vec();
    let examined = examine(&M::full_name(), &bytes);
    for entries in examined.unordered {
        entries.order(&mut bytes);
    }
    (bytes, examined.violations)
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
    fn bytes_that_are_no_message_have_nothing_to_order() {
        assert!(examine("envoy.config.cluster.v3.Cluster", &[0xff, 0xff]).unordered.is_empty());
        assert!(examine("no.such.Type", &cluster().encode_to_vec()).unordered.is_empty());
    }
}

//! Merges messages as istiod does: repeated fields are appended, entries of maps and durations are replaced, messages are merged.

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};

use crate::reflection::message_type;

const DURATION: &str = "google.protobuf.Duration";

/// Returns a message with another one of its type, which is encoded, merged into it. What is packed into an `Any` is replaced.
///
/// # Errors
/// When one of the two cannot be read.
pub(super) fn merge<M: Message + Name + Default>(into: &M, from: &[u8]) -> Result<M, String> {
    let merged = merged(&message_type(&M::full_name())?, &into.encode_to_vec(), from)?;
    M::decode(&merged[..]).map_err(|error| error.to_string())
}

/// Returns a packed message with another one of its type merged into it.
///
/// # Errors
/// When they are not of one type, or cannot be read.
pub(super) fn merge_any(into: &Any, from: &Any) -> Result<Any, String> {
    let name = |any: &Any| any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
    let (own, other) = (name(into), name(from));
    if own != other {
        return Err(format!("what is there is {own}, and cannot be merged with {other}"));
    }
    Ok(Any { type_url: into.type_url.clone(), value: merged(&message_type(&own)?, &into.value, &from.value)? })
}

fn merged(kind: &MessageDescriptor, into: &[u8], from: &[u8]) -> Result<Vec<u8>, String> {
    let read = |bytes: &[u8]| DynamicMessage::decode(kind.clone(), bytes).map_err(|error| error.to_string());
    let mut merged = read(into)?;
    merge_fields(&mut merged, read(from)?);
    Ok(merged.encode_to_vec())
}

fn merge_fields(into: &mut DynamicMessage, mut from: DynamicMessage) {
    let fields: Vec<_> = from.take_fields().collect();
    for (field, value) in fields {
        let is_merged = matches!(field.kind(), Kind::Message(kind) if kind.full_name() != DURATION);
        match value {
            Value::List(items) => {
                if let Some(list) = into.get_field_mut(&field).as_list_mut() {
                    list.extend(items);
                }
            }
            Value::Map(entries) => {
                if let Some(map) = into.get_field_mut(&field).as_map_mut() {
                    map.extend(entries);
                }
            }
            Value::Message(message) if is_merged => {
                if let Some(into) = into.get_field_mut(&field).as_message_mut() {
                    merge_fields(into, message);
                }
            }
            value => into.set_field(&field, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::{
        envoy::config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType},
            },
            core::v3::{KeepaliveSettings, TransportSocket, transport_socket::ConfigType},
            route::v3::{RouteConfiguration, VirtualHost},
        },
        google::protobuf::{BoolValue, Duration},
    };

    use super::*;

    fn seconds(seconds: i64, nanos: i32) -> Option<Duration> {
        Some(Duration { seconds, nanos })
    }

    fn merged_with<M: Message + Name + Default>(into: M, from: &M) -> M {
        merge(&into, &from.encode_to_vec()).unwrap()
    }

    #[test]
    fn durations_are_replaced_and_messages_merged() {
        let into = KeepaliveSettings { interval: seconds(5, 500), timeout: seconds(3, 0), ..KeepaliveSettings::default() };
        let from = KeepaliveSettings { interval: seconds(1, 0), ..KeepaliveSettings::default() };
        let expected = KeepaliveSettings { interval: seconds(1, 0), timeout: seconds(3, 0), ..KeepaliveSettings::default() };
        assert_eq!(merged_with(into, &from), expected);
    }

    #[test]
    fn lists_grow_and_false_says_nothing() {
        let host = |name: &str| VirtualHost { name: name.into(), ..VirtualHost::default() };
        let into = RouteConfiguration {
            virtual_hosts: vec![host("a")],
            validate_clusters: Some(BoolValue { value: true }),
            ..RouteConfiguration::default()
        };
        let from = RouteConfiguration {
            virtual_hosts: vec![host("b")],
            validate_clusters: Some(BoolValue { value: false }),
            ..RouteConfiguration::default()
        };
        let expected = RouteConfiguration { virtual_hosts: vec![host("a"), host("b")], ..into.clone() };
        assert_eq!(merged_with(into, &from), expected);
    }

    #[test]
    fn of_a_oneof_the_last_counts_and_maps_keep_what_is_not_named() {
        let options = |entries: [(&str, u8); 2]| {
            HashMap::from(entries.map(|(key, value)| (key.to_owned(), Any { type_url: "t".into(), value: vec![value] })))
        };
        let into = Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            typed_extension_protocol_options: options([("a", 1), ("b", 1)]),
            ..Cluster::default()
        };
        let custom = CustomClusterType { name: "x".into(), ..CustomClusterType::default() };
        let from = Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(custom)),
            typed_extension_protocol_options: options([("b", 2), ("c", 2)]),
            ..Cluster::default()
        };
        let made = merged_with(into, &from);
        assert_eq!(made.cluster_discovery_type, from.cluster_discovery_type);
        let value = |key: &str| made.typed_extension_protocol_options[key].value.clone();
        assert_eq!((value("a"), value("b"), value("c")), (vec![1], vec![2], vec![2]));
    }

    #[test]
    fn packed_messages_of_one_type_are_merged_and_others_are_not() {
        let packed = |socket: &TransportSocket| Any { type_url: TransportSocket::type_url(), value: socket.encode_to_vec() };
        let named = TransportSocket { name: "a".into(), config_type: None };
        let config = TransportSocket { name: String::new(), config_type: Some(ConfigType::TypedConfig(Any::default())) };
        let both = TransportSocket { name: "a".into(), ..config.clone() };
        let made = merge_any(&packed(&named), &packed(&config)).unwrap();
        assert_eq!(TransportSocket::decode(&made.value[..]).unwrap(), both);

        let other = Any { type_url: Cluster::type_url(), value: Vec::new() };
        let said = merge_any(&packed(&named), &other).unwrap_err();
        assert_eq!(
            said,
            "what is there is envoy.config.core.v3.TransportSocket, and cannot be merged with envoy.config.cluster.v3.Cluster"
        );
        let unknown = Any { type_url: "x/no.Such".into(), value: Vec::new() };
        assert!(merge_any(&unknown, &unknown).is_err());
    }
}

//! What a message names: the clusters that it sends something to, and the extensions that read its parts.

use std::collections::BTreeSet;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};
use smol_str::SmolStr;

use super::{
    message_type,
    typed_struct::{content, is_typed_struct},
};

/// What a message names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Clusters.
    pub(crate) clusters: BTreeSet<SmolStr>,
    /// Types of packed messages, those that come as `TypedStruct` included, by full name.
    pub(crate) types: BTreeSet<SmolStr>,
    /// Extension configurations that are asked for over ADS.
    pub(crate) extensions: BTreeSet<SmolStr>,
    /// Messages that come as `TypedStruct`, encoded, with their types by full name.
    pub(crate) contents: Vec<(SmolStr, Vec<u8>)>,
}

/// Fields that name a cluster, wherever they stand.
const CLUSTER_FIELDS: [&str; 2] = ["cluster", "cluster_name"];
/// Messages of which the name is a cluster's.
const WEIGHTED: [&str; 2] = [
    "envoy.config.route.v3.WeightedCluster.ClusterWeight",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
];
/// A cluster's own endpoints have its name.
const ASSIGNMENT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Returns what an encoded message of that type names.
pub(crate) fn named(type_name: &str, encoded: &[u8]) -> Named {
    let mut named = Named::default();
    let message = message_type(type_name).ok().and_then(|kind| DynamicMessage::decode(kind, encoded).ok());
    if let Some(message) = message {
        named.walk(&message);
    }
    named
}

impl Named {
    fn walk(&mut self, message: &DynamicMessage) {
        let kind = message.descriptor();
        let full_name = kind.full_name();
        if full_name == Any::full_name() {
            return self.packed(message);
        }
        if is_typed_struct(full_name) {
            self.types.extend(text(message, "type_url").map(|url| full_name_of(&url)));
            return self.held(message);
        }
        if is_discovered(message) {
            self.extensions.extend(text(message, "name").map(SmolStr::from));
        }
        for (field, value) in message.fields() {
            match (field.kind(), value) {
                (Kind::String, Value::String(name)) if !name.is_empty() => {
                    let names_cluster = CLUSTER_FIELDS.contains(&field.name()) && full_name != ASSIGNMENT;
                    if names_cluster || (WEIGHTED.contains(&full_name) && field.name() == "name") {
                        self.clusters.insert(name.into());
                    }
                }
                (_, value) => self.value(value),
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Message(message) => self.walk(message),
            Value::List(items) => items.iter().for_each(|item| self.value(item)),
            Value::Map(entries) => entries.values().for_each(|entry| self.value(entry)),
            _ => {}
        }
    }

    fn held(&mut self, holder: &DynamicMessage) {
        if let Some(content) = content(holder) {
            self.walk(&content);
            self.contents.push((content.descriptor().full_name().into(), content.encode_to_vec()));
        }
    }

    fn packed(&mut self, any: &DynamicMessage) {
        let Some(url) = text(any, "type_url").filter(|url| !url.is_empty()) else { return };
        self.types.insert(full_name_of(&url));
        let content = any.get_field_by_name("value").and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
        if let Some(inner) = message_type(&url).ok().and_then(|kind| DynamicMessage::decode(kind, content).ok()) {
            self.walk(&inner);
        }
    }
}

/// Returns whether the configuration of a filter is asked for over ADS.
fn is_discovered(filter: &DynamicMessage) -> bool {
    let message = |of: &DynamicMessage, field: &str| of.get_field_by_name(field).and_then(|value| value.as_message().cloned());
    // What is not set is not looked into.
    filter.has_field_by_name("config_discovery")
        && message(filter, "config_discovery")
            .and_then(|discovery| message(&discovery, "config_source"))
            .is_some_and(|source| source.has_field_by_name("ads"))
}

fn text(message: &DynamicMessage, field: &str) -> Option<String> {
    message.get_field_by_name(field)?.as_str().map(str::to_owned)
}

fn full_name_of(url: &str) -> SmolStr {
    url.rsplit('/').next().unwrap_or(url).into()
}

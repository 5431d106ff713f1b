//! Messages of Envoy's API by their descriptors: what is only known by its name, or written as JSON by users.

mod named;
mod typed_struct;

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use crate::proto;

pub(crate) use self::{named::named, typed_struct::is_typed_struct};

// Decoded on first use, as it takes tens of milliseconds and megabytes.
static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).map_err(|error| error.to_string()));

const ANY: &str = "google.protobuf.Any";
/// The key under which the JSON of an `Any` has its type.
const TYPE: &str = "@type";
/// These have a JSON of their own, without fields.
const WELL_KNOWN: &str = "google.protobuf.";

/// A message that was written as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The message, encoded. The order of maps in it is not fixed.
    pub(crate) message: Vec<u8>,
    /// The paths of fields that the message does not have, and that say nothing.
    pub(crate) unknown: Vec<String>,
    /// The types that are not known here, by the paths of the fields that name them. What is of such a type is taken as it is.
    pub(crate) unknown_types: Vec<(String, String)>,
}

/// Why JSON is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The path of the field in which the mistake is; empty for the message as a whole.
    pub(crate) path: String,
    /// What is wrong there.
    pub(crate) what: String,
}

/// Returns the type of that name, which may be written as a type URL.
///
/// # Errors
/// When there is no such type.
pub(crate) fn message_type(name: &str) -> Result<MessageDescriptor, String> {
    let pool = POOL.as_ref().map_err(Clone::clone)?;
    let full_name = name.rsplit('/').next().unwrap_or(name);
    pool.get_message_by_name(full_name).ok_or_else(|| format!("unknown type {name}"))
}

/// Returns whether Envoy itself has the type: not Istio alone, nor nobody that is known here.
pub(crate) fn is_of_envoy(full_name: &str) -> bool {
    let of_istio = |package: &str| package.starts_with("istio.") || package == "stats";
    message_type(full_name).is_ok_and(|kind| !of_istio(kind.package_name()))
}

/// Reads a message of that type from the JSON of protobuf, which may name fields either way.
///
/// # Errors
/// When it is none: the mistake names the innermost field that cannot be read.
pub(crate) fn from_json(type_name: &str, value: &Value) -> Result<Written, Mistake> {
    let kind = message_type(type_name).map_err(|what| Mistake { path: String::new(), what })?;
    match parse(&kind, value) {
        Ok(message) => {
            let mut unknown = Vec::new();
            unknown_fields(&kind, value, "", &mut unknown);
            let mut packed = typed_struct::Found::default();
            typed_struct::check(&kind, value, "", &mut packed)?;
            unknown.append(&mut packed.unknown);
            Ok(Written { message: message.encode_to_vec(), unknown, unknown_types: packed.types })
        }
        Err(what) => Err(mistake(&kind, value, String::new(), what)),
    }
}

fn parse(kind: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(kind.clone(), value, &options).map_err(|error| error.to_string())
}

/// A field as it is written in a message.
struct WrittenField<'v> {
    name: &'v str,
    /// `None`: the message has no such field.
    field: Option<FieldDescriptor>,
    value: &'v Value,
}

/// Returns the fields that are written in a message; those of the message within, if it is an `Any`.
fn fields<'v>(kind: &MessageDescriptor, value: &'v Value) -> Vec<WrittenField<'v>> {
    let Value::Object(entries) = value else { return Vec::new() };
    let inner = if kind.full_name() == ANY { type_of(entries).ok() } else { Some(kind.clone()) };
    let Some(kind) = inner.filter(|kind| !kind.full_name().starts_with(WELL_KNOWN)) else { return Vec::new() };
    let is_field = |name: &&String| name.as_str() != TYPE;
    let written = entries.iter().filter(|(name, _)| is_field(name)).map(|(name, value)| {
        let field = kind.get_field_by_json_name(name).or_else(|| kind.get_field_by_name(name));
        WrittenField { name, field, value }
    });
    written.collect()
}

/// Returns the type of the message in an `Any`.
fn type_of(entries: &Map<String, Value>) -> Result<MessageDescriptor, String> {
    match entries.get(TYPE) {
        Some(Value::String(url)) => message_type(url),
        Some(_) => Err("must be a text".to_owned()),
        None => Err("is missing".to_owned()),
    }
}

/// Returns the messages in a field, each with its type and what follows the name of the field in its path.
fn messages<'v>(field: &FieldDescriptor, value: &'v Value) -> Vec<(String, MessageDescriptor, &'v Value)> {
    let Kind::Message(kind) = field.kind() else { return Vec::new() };
    match value {
        Value::Array(items) if field.is_list() => {
            items.iter().enumerate().map(|(index, item)| (format!("[{index}]"), kind.clone(), item)).collect()
        }
        Value::Object(entries) if field.is_map() => match kind.map_entry_value_field().kind() {
            Kind::Message(kind) => entries.iter().map(|(key, item)| (format!("[{key:?}]"), kind.clone(), item)).collect(),
            _ => Vec::new(),
        },
        _ if field.is_list() || field.is_map() => Vec::new(),
        _ => vec![(String::new(), kind, value)],
    }
}

fn unknown_fields(kind: &MessageDescriptor, value: &Value, at: &str, found: &mut Vec<String>) {
    for WrittenField { name, field, value } in fields(kind, value) {
        let at = within(at, name);
        let Some(field) = field else {
            found.push(at);
            continue;
        };
        for (step, kind, value) in messages(&field, value) {
            unknown_fields(&kind, value, &format!("{at}{step}"), found);
        }
    }
}

/// Finds the innermost field that is to blame for `what`, which is said of the message at `at`.
fn mistake(kind: &MessageDescriptor, value: &Value, at: String, what: String) -> Mistake {
    let of_any = value.as_object().filter(|_| kind.full_name() == ANY);
    if let Some(Err(what)) = of_any.map(type_of) {
        return Mistake { path: within(&at, TYPE), what };
    }
    for WrittenField { name, field, value: written } in fields(kind, value) {
        let Some(field) = field else { continue };
        let by_itself = of_any.and_then(|entries| Some((TYPE.to_owned(), entries.get(TYPE)?.clone())));
        let alone = Value::Object(by_itself.into_iter().chain([(name.to_owned(), written.clone())]).collect());
        let Err(what) = parse(kind, &alone) else { continue };
        let at = within(&at, name);
        for (step, kind, value) in messages(&field, written) {
            if let Err(what) = parse(&kind, value) {
                return mistake(&kind, value, format!("{at}{step}"), what);
            }
        }
        return Mistake { path: at, what };
    }
    Mistake { path: at, what }
}

fn within(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::{cluster::v3::Cluster, listener::v3::Filter},
        extensions::filters::{http::buffer::v3::Buffer, network::http_connection_manager::v3::HttpConnectionManager},
    };
    use serde_json::json;

    use super::*;

    const FILTER: &str = "envoy.config.listener.v3.Filter";
    const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

    fn read(type_name: &str, value: Value) -> Result<Vec<String>, (String, String)> {
        from_json(type_name, &value).map(|written| written.unknown).map_err(|mistake| (mistake.path, mistake.what))
    }

    #[test]
    fn fields_are_named_either_way_and_any_is_packed() {
        let buffer = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer", "maxRequestBytes": 7});
        let filters = json!([{"name": "buffer", "typed_config": buffer}]);
        let manager = json!({"@type": MANAGER, "http_filters": filters, "stream_idle_timeout": "1.5s"});
        let written = from_json(FILTER, &json!({"name": "hcm", "typedConfig": manager})).unwrap();
        assert_eq!(written.unknown, [""; 0]);
        let filter = Filter::decode(&written.message[..]).unwrap();
        let Some(envoy_types::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(config)) = filter.config_type else {
            panic!("no typed config")
        };
        let manager = HttpConnectionManager::decode(&config.value[..]).unwrap();
        assert_eq!(manager.stream_idle_timeout.unwrap().nanos, 500_000_000);
        let Some(envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType::TypedConfig(
            config,
        )) = &manager.http_filters[0].config_type
        else {
            panic!("no typed config")
        };
        assert_eq!(Buffer::decode(&config.value[..]).unwrap().max_request_bytes.unwrap().value, 7);
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let manager = json!({"@type": MANAGER, "http_filters": [{"name": "a"}, {"nam": "b"}], "tracing": {"x": 1}});
        let found = read(FILTER, json!({"typed_config": manager, "filter": 1})).unwrap();
        assert_eq!(found, ["filter", "typed_config.http_filters[1].nam", "typed_config.tracing.x"]);
    }

    #[test]
    fn a_mistake_is_named_where_it_is() {
        let cluster = "envoy.config.cluster.v3.Cluster";
        let mistakes = [
            (FILTER, json!({"name": 5}), "name"),
            (FILTER, json!("text"), ""),
            (FILTER, json!({"typed_config": {"@type": "type.googleapis.com/no.Such"}}), "typed_config.@type"),
            (FILTER, json!({"typed_config": {"name": "x"}}), "typed_config.@type"),
            (
                FILTER,
                json!({"typed_config": {"@type": MANAGER, "http_filters": [{"name": "a"}, {"name": []}]}}),
                "typed_config.http_filters[1].name",
            ),
            (cluster, json!({"connect_timeout": "soon"}), "connect_timeout"),
            (cluster, json!({"lb_policy": "ROUND"}), "lb_policy"),
            (cluster, json!({"health_checks": {}}), "health_checks"),
            (
                cluster,
                json!({"typed_extension_protocol_options": {"a": {"@type": "x/no.Such"}}}),
                "typed_extension_protocol_options[\"a\"].@type",
            ),
        ];
        for (type_name, value, path) in mistakes {
            match read(type_name, value.clone()) {
                Err((at, what)) => assert!(at == path && !what.is_empty(), "{value}: {at}: {what}"),
                // The JSON of protobuf passes over values of enums that it does not know.
                Ok(_) => assert_eq!(path, "lb_policy"),
            }
        }
        assert!(from_json(cluster, &json!({"name": "a"})).is_ok_and(|written| Cluster::decode(&written.message[..]).is_ok()));
    }
}

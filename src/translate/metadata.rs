//! `filter_metadata`, as istioctl and telemetry read it (contract §3.1 Metadata).

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{Struct, Value},
};

use super::wkt;

/// The key of Istio's own metadata.
pub const ISTIO: &str = "istio";

/// Returns `filter_metadata: {istio: fields}`; `None` without fields.
pub fn istio<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Option<Metadata> {
    let fields = wkt::structure(fields);
    (!fields.fields.is_empty()).then(|| filter_metadata([(ISTIO, fields)]))
}

/// Returns `filter_metadata: {istio: {config: path}}`.
pub fn istio_config(path: &str) -> Metadata {
    filter_metadata([(ISTIO, wkt::structure([("config", wkt::text_value(path))]))])
}

/// Returns metadata with these keys.
pub fn filter_metadata<'a>(entries: impl IntoIterator<Item = (&'a str, Struct)>) -> Metadata {
    let filter_metadata = entries.into_iter().map(|(key, fields)| (key.to_owned(), fields)).collect::<HashMap<_, _>>();
    Metadata { filter_metadata, ..Default::default() }
}

//! The header by which a client's proxy tells a server's who it is, for metrics: Istio's own way (contract §3.8) needs filters that a
//! stock Envoy lacks.
//!
//! It is added behind the choice of an endpoint, and only where mTLS leads to a proxy of the mesh; it is read where mTLS arrives, and
//! taken away before anything else sees the request. Everywhere else what a client sends under this name is taken away unread. A
//! workload that speaks mTLS itself could give any name; the identity in its certificate stands beside it.

use envoy_types::pb::envoy::{
    config::{
        common::mutation_rules::v3::{HeaderMutation, header_mutation::Action},
        core::v3::{HeaderValue, HeaderValueOption, TypedExtensionConfig, header_value_option::HeaderAppendAction},
    },
    extensions::{
        filters::{
            http::{
                header_mutation::v3::{HeaderMutation as Filter, Mutations},
                header_to_metadata::v3::{
                    Config as HeaderToMetadata,
                    config::{KeyValuePair, Rule},
                },
                upstream_codec::v3::UpstreamCodec,
            },
            network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
        },
        http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyMutation,
    },
};

use crate::{translate::wkt, workload_labels::OF_NODE};

/// Where in a request's metadata the text is.
pub(super) const METADATA_NAMESPACE: &str = "istio_peer";
/// Its key there.
pub(super) const METADATA_KEY: &str = "workload";

const HEADER: &str = "x-istiod-lite-peer";

/// Which requests of a cluster reach a proxy of the mesh by mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// All.
    Always,
    /// Those to endpoints that say that they can.
    ByEndpoint,
}

/// Returns what takes the header away before any filter sees it.
pub fn removed_early() -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".into(),
        typed_config: Some(wkt::any(&EarlyMutation { mutations: vec![removal()] })),
    }
}

/// Returns the filter of a server's proxy that reads the header and takes it away.
pub fn reader() -> HttpFilter {
    let pair = KeyValuePair { metadata_namespace: METADATA_NAMESPACE.into(), key: METADATA_KEY.into(), ..Default::default() };
    let rule = Rule { header: HEADER.into(), on_header_present: Some(pair), remove: true, ..Default::default() };
    let config = HeaderToMetadata { request_rules: vec![rule], ..Default::default() };
    filter("envoy.filters.http.header_to_metadata", wkt::any(&config))
}

/// Returns the filters of a cluster that adds the header, once an endpoint is chosen. A request that is tried again at another endpoint
/// still has what the first was told, so that goes first.
pub fn writers(told: Told) -> Vec<HttpFilter> {
    let own = format!("xds.node.metadata['{OF_NODE}']");
    let value = match told {
        Told::Always => format!("%CEL({own})%"),
        Told::ByEndpoint => {
            format!("%CEL(xds.upstream_host_metadata.filter_metadata['envoy.transport_socket_match']['tlsMode'] == 'istio' ? {own} : '')%")
        }
    };
    let header = HeaderValueOption {
        header: Some(HeaderValue { key: HEADER.into(), value, ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let request_mutations = vec![removal(), HeaderMutation { action: Some(Action::Append(header)) }];
    let config = Filter { mutations: Some(Mutations { request_mutations, ..Default::default() }), ..Default::default() };
    vec![
        filter("envoy.filters.http.header_mutation", wkt::any(&config)),
        filter("envoy.filters.http.upstream_codec", wkt::any(&UpstreamCodec {})),
    ]
}

fn removal() -> HeaderMutation {
    HeaderMutation { action: Some(Action::Remove(HEADER.into())) }
}

fn filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> HttpFilter {
    HttpFilter { name: name.into(), config_type: Some(ConfigType::TypedConfig(config)), ..Default::default() }
}

//! Access logs that are sent to services over gRPC: Envoy's own, and OpenTelemetry's.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            ApiVersion, GrpcService,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
        },
        extensions::access_loggers::{
            grpc::v3::{CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig},
            open_telemetry::v3::OpenTelemetryAccessLogConfig,
        },
    },
    google::protobuf::Any,
    opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList, any_value},
};
use prost::{Message, Name};
use smol_str::SmolStr;

use super::file::{TEXT_FORMAT, formatters};
use crate::{
    mesh::providers::{GrpcAccessLog, OtelAccessLog, StreamKind},
    translate::{wire, wkt},
};

/// What Istio's filters write down of the other side of a request or connection.
const PEERS: [&str; 2] = ["upstream_peer", "downstream_peer"];
/// The same, with the names that older proxies have for it.
const PEERS_OF_ALL: [&str; 6] =
    ["upstream_peer", "downstream_peer", "wasm.upstream_peer", "wasm.upstream_peer_id", "wasm.downstream_peer", "wasm.downstream_peer_id"];

/// A cluster, and the host that is asked for there.
type Server = (SmolStr, String);

/// Returns name and configuration of a logger that speaks Envoy's own protocol.
pub(super) fn envoy(log: &GrpcAccessLog, server: Server) -> (&'static str, Any) {
    let filter_state = match log.filter_state.is_empty() {
        true => PEERS.map(str::to_owned).to_vec(),
        false => texts(&log.filter_state),
    };
    let named = |usual| if log.log_name.is_empty() { usual } else { log.log_name.as_str() };
    match &log.kind {
        StreamKind::Http { request_headers, response_headers, response_trailers } => {
            let config = HttpGrpcAccessLogConfig {
                common_config: Some(common(named("http_envoy_accesslog"), server, filter_state)),
                additional_request_headers_to_log: texts(request_headers),
                additional_response_headers_to_log: texts(response_headers),
                additional_response_trailers_to_log: texts(response_trailers),
            };
            ("envoy.access_loggers.http_grpc", wkt::any(&config))
        }
        StreamKind::Tcp => {
            let common_config = Some(common(named("tcp_envoy_accesslog"), server, filter_state));
            ("envoy.tcp_grpc_access_log", wkt::any(&TcpGrpcAccessLogConfig { common_config }))
        }
    }
}

/// Returns the configuration of a logger that speaks OpenTelemetry's protocol.
pub(super) fn open_telemetry(log: &OtelAccessLog, server: Server) -> Any {
    let name = if log.log_name.is_empty() { "otel_envoy_accesslog" } else { log.log_name.as_str() };
    let body = if log.text.is_empty() { TEXT_FORMAT } else { log.text.as_str() };
    let attributes: Vec<KeyValue> =
        log.labels.iter().map(|(key, value)| KeyValue { key: key.to_string(), value: text(value), ..KeyValue::default() }).collect();
    let config = OpenTelemetryAccessLogConfig {
        disable_builtin_labels: true,
        body: text(body),
        attributes: (!attributes.is_empty()).then_some(KeyValueList { values: attributes }),
        formatters: formatters([body].into_iter().chain(log.labels.iter().map(|(_, value)| value.as_str()))),
        ..OpenTelemetryAccessLogConfig::default()
    };
    let mut value = config.encode_to_vec();
    // `common_config`, which newer Envoys know under another name and older ones do not.
    wire::message(&mut value, 1, &common(name, server, PEERS_OF_ALL.map(str::to_owned).to_vec()).encode_to_vec());
    Any { type_url: OpenTelemetryAccessLogConfig::type_url(), value }
}

fn common(log_name: &str, (cluster_name, authority): Server, filter_state_objects_to_log: Vec<String>) -> CommonGrpcAccessLogConfig {
    let envoy = EnvoyGrpc { cluster_name: cluster_name.into(), authority, ..EnvoyGrpc::default() };
    CommonGrpcAccessLogConfig {
        log_name: log_name.into(),
        grpc_service: Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..GrpcService::default() }),
        transport_api_version: ApiVersion::V3.into(),
        filter_state_objects_to_log,
        ..CommonGrpcAccessLogConfig::default()
    }
}

fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(text.into())) })
}

fn texts(texts: &[SmolStr]) -> Vec<String> {
    texts.iter().map(SmolStr::to_string).collect()
}

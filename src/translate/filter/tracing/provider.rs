//! Who is sent spans: Zipkin, and whoever speaks OpenTelemetry's protocol.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{
                GrpcService, HeaderValue, HeaderValueOption, HttpService, HttpUri, TypedExtensionConfig,
                grpc_service::{EnvoyGrpc, TargetSpecifier},
                header_value_option::HeaderAppendAction,
                http_uri::HttpUpstreamType,
            },
            trace::v3::{
                OpenTelemetryConfig, ZipkinConfig,
                tracing::{Http, http::ConfigType},
                zipkin_config::{CollectorEndpointVersion, TraceContextOption},
            },
        },
        extensions::tracers::opentelemetry::resource_detectors::v3::{DynatraceResourceDetectorConfig, EnvironmentResourceDetectorConfig},
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use super::cluster_of;
use crate::{
    mesh::{
        providers::{NamedProvider, OpenTelemetry, OtelExport, Provider, Zipkin},
        telemetry::Tracer,
    },
    translate::wkt,
};

/// How long a collector may take that is called by HTTP, unless its provider says otherwise: Envoy wants to be told.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns how spans are sent. `service_name` names the proxy where they do not do so by themselves.
pub(super) fn provider(tracer: &Tracer, service_name: &str) -> Option<Http> {
    let server = Server { host: tracer.collector.to_string(), cluster: cluster_of(tracer)? };
    let (name, config) = match tracer.provider.provider.as_ref()? {
        Provider::Zipkin(asked) => ("envoy.tracers.zipkin", zipkin(asked, &server)),
        Provider::OpenTelemetry(asked) => ("envoy.tracers.opentelemetry", open_telemetry(asked, &server, service_name)),
        _ => return None,
    };
    Some(Http { name: name.into(), config_type: Some(ConfigType::TypedConfig(config)) })
}

/// Returns how long paths may be in spans; `None` for Envoy's default.
pub(super) fn max_tag_length(provider: &NamedProvider) -> Option<u32> {
    match provider.provider.as_ref()? {
        Provider::Zipkin(asked) => asked.max_tag_length,
        Provider::OpenTelemetry(asked) => asked.max_tag_length,
        _ => None,
    }
}

/// A collector.
struct Server {
    host: String,
    cluster: SmolStr,
}

fn zipkin(asked: &Zipkin, server: &Server) -> Any {
    let path = if asked.path.is_empty() { "/api/v2/spans" } else { asked.path.as_str() };
    let context = if asked.with_w3c { TraceContextOption::UseB3WithW3cPropagation } else { TraceContextOption::UseB3 };
    wkt::any(&ZipkinConfig {
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        trace_id_128bit: !asked.short_trace_ids,
        shared_span_context: wkt::boolean(false),
        trace_context_option: context.into(),
        collector_service: Some(http_service(server, format!("http://{}{path}", server.host), asked.timeout, &asked.headers)),
        ..ZipkinConfig::default()
    })
}

fn open_telemetry(asked: &OpenTelemetry, server: &Server, service_name: &str) -> Any {
    let mut config = OpenTelemetryConfig { service_name: service_name.into(), ..OpenTelemetryConfig::default() };
    match &asked.export {
        OtelExport::Grpc { timeout, metadata } => {
            let envoy = EnvoyGrpc { cluster_name: server.cluster.to_string(), authority: server.host.clone(), ..EnvoyGrpc::default() };
            config.grpc_service = Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
                timeout: timeout.map(wkt::duration),
                initial_metadata: metadata.iter().map(header).collect(),
                ..GrpcService::default()
            });
        }
        OtelExport::Http { path, timeout, headers } => {
            let path = path.trim_start_matches('/');
            let uri = if path.is_empty() { server.host.clone() } else { format!("{}/{path}", server.host) };
            config.http_service = Some(http_service(server, uri, *timeout, headers));
        }
    }
    let environment = asked.environment_detector.then(|| detector("environment", wkt::any(&EnvironmentResourceDetectorConfig {})));
    let dynatrace = asked.dynatrace_detector.then(|| detector("dynatrace", wkt::any(&DynatraceResourceDetectorConfig {})));
    config.resource_detectors = environment.into_iter().chain(dynatrace).collect();
    wkt::any(&config)
}

fn detector(name: &str, config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig { name: format!("envoy.tracers.opentelemetry.resource_detectors.{name}"), typed_config: Some(config) }
}

fn http_service(server: &Server, uri: String, timeout: Option<Duration>, headers: &[(SmolStr, SmolStr)]) -> HttpService {
    let uri = HttpUri {
        uri,
        timeout: Some(wkt::duration(timeout.unwrap_or(TIMEOUT))),
        http_upstream_type: Some(HttpUpstreamType::Cluster(server.cluster.to_string())),
    };
    let added = |of: &(SmolStr, SmolStr)| HeaderValueOption {
        header: Some(header(of)),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    HttpService { http_uri: Some(uri), request_headers_to_add: headers.iter().map(added).collect(), ..HttpService::default() }
}

fn header((name, value): &(SmolStr, SmolStr)) -> HeaderValue {
    HeaderValue { key: name.to_string(), value: value.to_string(), ..HeaderValue::default() }
}

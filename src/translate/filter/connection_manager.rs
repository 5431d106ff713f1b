//! The HTTP connection manager (contract §3.5).

use envoy_types::pb::envoy::{
    config::{
        core::v3::Http1ProtocolOptions,
        listener::v3::{Filter, filter::ConfigType},
        route::v3::RouteConfiguration,
    },
    extensions::{
        filters::network::http_connection_manager::v3::{
            HttpConnectionManager, Rds, RequestIdExtension,
            http_connection_manager::{
                ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
                SetCurrentClientCertDetails, UpgradeConfig,
            },
        },
        request_id::uuid::v3::UuidRequestIdConfig,
    },
};
use smol_str::SmolStr;

use super::{
    Direction,
    access_log::access_logs,
    extensions::Extensions,
    http::{HttpFilters, http_filters},
    metrics::of_requests,
    peer_header::removed_early,
    policies::PolicyFilters,
    tracing::tracing,
};
use crate::{
    mesh::{
        model::{CertificateDetails, Disabled, ForwardedCertificate, ServerHeader},
        policy::request_authentication::TokenRules,
        settings::{MeshSettings, PathNormalization},
    },
    translate::{header_case::preserving_case, input::ListenerClass, tls::ads, wkt},
};

/// What decides how a connection manager looks.
#[derive(Debug)]
pub struct ConnectionManager<'a> {
    /// The class of proxies.
    pub class: &'a ListenerClass,
    /// Mesh-wide settings.
    pub mesh: &'a MeshSettings,
    /// Where it stands.
    pub direction: Direction,
    /// The workload's port; 0: any, or none.
    pub port: u16,
    /// Prefix of its statistics, without the closing `;`.
    pub stat_prefix: &'a str,
    /// Where its routes come from.
    pub routes: Routes,
    /// Which tokens of requests are good; `None` where nobody asks.
    pub tokens: Option<&'a TokenRules>,
    /// Whether the port of the workload speaks HTTP/2.
    pub http2: bool,
    /// Whether the port speaks gRPC-Web.
    pub grpc_web: bool,
    /// Whether it is a sniffed port with a route configuration of its own.
    pub sniffed: bool,
    /// The DNS cache of a `DYNAMIC_DNS` service.
    pub dns_cache: Option<&'a SmolStr>,
    /// The filters that hold policies.
    pub policies: &'a PolicyFilters,
    /// Code of users' own for the port.
    pub extensions: &'a Extensions<'a>,
    /// Whether it is the explicit HTTP proxy (`proxyHttpPort`), whose requests name the whole URL.
    pub explicit_proxy: bool,
    /// Whether whoever connects to a sidecar has shown a certificate of the mesh.
    pub from_mesh: bool,
}

/// Where routes come from.
#[derive(Debug)]
pub enum Routes {
    /// Subscribed to under this name.
    Rds(SmolStr),
    /// Part of the listener.
    Inline(Box<RouteConfiguration>),
}

/// Returns the network filter.
pub fn connection_manager(wanted: ConnectionManager<'_>) -> Filter {
    let mut manager = common(&wanted);
    let headers = &wanted.class.own.headers;
    match wanted.direction {
        Direction::Outbound => manager.http_protocol_options = http1_options(&wanted),
        Direction::Inbound => {
            manager.http_protocol_options = http1_options(&wanted);
            manager.http2_protocol_options = wanted.http2.then(Default::default);
            let forwarded = headers.forwarded_certificate.unwrap_or(ForwardedCertificate::AppendForward);
            manager.forward_client_cert_details = forwarded_certificate(forwarded).into();
            manager.set_current_client_cert_details = Some(asked_of_client_certificate(headers.certificate_details.unwrap_or_default()));
        }
        Direction::Gateway => {
            manager.http_protocol_options = Some(http1_options(&wanted).unwrap_or_default());
            manager.use_remote_address = wkt::boolean(true);
            let topology = wanted.class.own.topology;
            let forwarded = forwarded_certificate(topology.forwarded_certificate.unwrap_or(ForwardedCertificate::SanitizeSet));
            let says_whose = matches!(forwarded, ForwardClientCertDetails::AppendForward | ForwardClientCertDetails::SanitizeSet);
            manager.xff_num_trusted_hops = topology.trusted_proxies.into();
            manager.forward_client_cert_details = forwarded.into();
            manager.set_current_client_cert_details = says_whose.then(client_certificate);
        }
    }
    manager.route_specifier = Some(match wanted.routes {
        Routes::Rds(name) => RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.into() }),
        Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
    });
    Filter { name: "envoy.filters.network.http_connection_manager".into(), config_type: Some(ConfigType::TypedConfig(wkt::any(&manager))) }
}

/// Sets what the header `server` of answers says.
fn say_server(manager: &mut HttpConnectionManager, direction: Direction, asked: Option<&ServerHeader>) {
    let usual = if direction == Direction::Outbound { "" } else { "istio-envoy" };
    match asked {
        Some(asked) if asked.disabled => manager.server_header_transformation = ServerHeaderTransformation::PassThrough.into(),
        Some(asked) if !asked.value.is_empty() => manager.server_name = asked.value.to_string(),
        _ => manager.server_name = usual.into(),
    }
}

fn common(wanted: &ConnectionManager<'_>) -> HttpConnectionManager {
    let class = wanted.class;
    let metrics = class.own.metrics;
    let paths = wanted.mesh.path_normalization;
    let escaped_slashes = match paths {
        PathNormalization::DecodeAndMergeSlashes => PathWithEscapedSlashesAction::UnescapeAndForward,
        _ => PathWithEscapedSlashesAction::KeepUnchanged,
    };
    let by_request_id = class.own.reports.tracing.as_ref().is_none_or(|tracing| tracing.by_request_id);
    let request_id = UuidRequestIdConfig { use_request_id_for_trace_sampling: wkt::boolean(by_request_id), ..Default::default() };
    let headers = &class.own.headers;
    let filters = HttpFilters {
        class,
        direction: wanted.direction,
        port: wanted.port,
        tokens: wanted.tokens,
        grpc_web: wanted.grpc_web,
        sniffed: wanted.sniffed,
        dns_cache: wanted.dns_cache,
        policies: wanted.policies,
        reads_peer: metrics.peers && wanted.from_mesh,
        explicit_proxy: wanted.explicit_proxy,
        extensions: wanted.extensions,
    };
    let mut manager = HttpConnectionManager {
        generate_request_id: if headers.request_id == Some(Disabled(true)) { wkt::boolean(false) } else { None },
        append_x_forwarded_port: headers.forwarded_port == Some(true),
        stat_prefix: format!("{};", wanted.stat_prefix),
        http_filters: http_filters(filters),
        tracing: tracing(class, wanted.direction),
        stream_idle_timeout: Some(Default::default()),
        common_http_protocol_options: idle_timeout(class),
        early_header_mutation_extensions: (metrics.peers && !wanted.from_mesh).then(removed_early).into_iter().collect(),
        access_log: access_logs(&class.own.reports).into_iter().chain(of_requests(metrics, wanted.direction, &class.own.reports)).collect(),
        use_remote_address: wkt::boolean(false),
        proxy_100_continue: true,
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        normalize_path: wkt::boolean(paths != PathNormalization::None),
        merge_slashes: matches!(paths, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes),
        path_with_escaped_slashes_action: escaped_slashes.into(),
        request_id_extension: Some(RequestIdExtension { typed_config: Some(wkt::any(&request_id)) }),
        ..Default::default()
    };
    say_server(&mut manager, wanted.direction, headers.server.as_ref());
    manager
}

fn idle_timeout(class: &ListenerClass) -> Option<envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions> {
    let idle_timeout = Some(wkt::duration(class.idle_timeout?));
    Some(envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions { idle_timeout, ..Default::default() })
}

fn http1_options(wanted: &ConnectionManager<'_>) -> Option<Http1ProtocolOptions> {
    let preserves_case = wanted.class.own.headers.preserve_case == Some(true);
    (wanted.class.http10 || wanted.explicit_proxy || preserves_case).then(|| Http1ProtocolOptions {
        header_key_format: preserves_case.then(preserving_case),
        accept_http_10: wanted.class.http10,
        allow_absolute_url: if wanted.explicit_proxy { wkt::boolean(true) } else { None },
        ..Default::default()
    })
}

/// Returns what is done with the header of client certificates.
fn forwarded_certificate(asked: ForwardedCertificate) -> ForwardClientCertDetails {
    match asked {
        ForwardedCertificate::Sanitize => ForwardClientCertDetails::Sanitize,
        ForwardedCertificate::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        ForwardedCertificate::AppendForward => ForwardClientCertDetails::AppendForward,
        ForwardedCertificate::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        ForwardedCertificate::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    }
}

/// Returns what a gateway says of a client's certificate.
fn client_certificate() -> SetCurrentClientCertDetails {
    SetCurrentClientCertDetails { subject: wkt::boolean(true), cert: true, dns: true, uri: true, ..Default::default() }
}

/// Returns what a sidecar says of a client's certificate.
fn asked_of_client_certificate(asked: CertificateDetails) -> SetCurrentClientCertDetails {
    SetCurrentClientCertDetails {
        subject: wkt::boolean(asked.subject.unwrap_or(true)),
        cert: asked.cert.unwrap_or_default(),
        chain: asked.chain.unwrap_or_default(),
        dns: asked.dns.unwrap_or(true),
        uri: asked.uri.unwrap_or(true),
        ..Default::default()
    }
}

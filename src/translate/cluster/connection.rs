//! Connection pools: thresholds, timeouts, keepalive, HTTP protocol options, outlier detection.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, Cluster, OutlierDetection as EnvoyOutlierDetection, UpstreamConnectionOptions,
                circuit_breakers::Thresholds, cluster::CommonLbConfig,
            },
            core::v3::{
                Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonHttpOptions, TcpKeepalive,
                UpstreamHttpProtocolOptions,
            },
        },
        extensions::{
            filters::network::http_connection_manager::v3::HttpFilter,
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
                },
            },
        },
        r#type::v3::Percent,
    },
    google::protobuf::Any,
};

use crate::{
    mesh::{
        model::Protocol,
        settings::MeshSettings,
        traffic::{ConnectionPool, OutlierDetection, TcpKeepalive as Keepalive},
    },
    translate::{header_case::preserving_case, wkt},
};

const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const UNLIMITED: u32 = u32::MAX;

/// Which HTTP version is spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpVersion {
    /// HTTP/1.1, or no HTTP at all.
    One,
    /// HTTP/2.
    Two,
    /// The version that the client spoke.
    Downstream,
}

/// What happens to requests once an endpoint is chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct UpstreamHttp {
    /// Which names of the request the connection takes.
    pub(super) names: Option<UpstreamHttpProtocolOptions>,
    /// Filters; none stand for Envoy's own.
    pub(super) filters: Vec<HttpFilter>,
    /// Whether names of HTTP/1 headers keep their case.
    pub(super) preserves_case: bool,
}

impl HttpVersion {
    /// Returns the version for a port before any policy: sniffed ports keep the client's version where `sniffed` is
    /// handled.
    pub(super) fn of_port(protocol: Protocol, sniffed: bool) -> Self {
        match protocol {
            protocol if protocol.is_http2() => Self::Two,
            Protocol::Auto if sniffed => Self::Downstream,
            _ => Self::One,
        }
    }

    /// Returns whether headers of a port may have names in any case: those of HTTP/2 are lower case.
    pub(super) fn has_case(self, protocol: Protocol) -> bool {
        self != Self::Two && (protocol.is_http() || protocol == Protocol::Auto)
    }

    /// Returns the version after `h2UpgradePolicy` and `useClientProtocol`. A rule may upgrade any port but a sniffed
    /// one, the mesh only HTTP ports.
    pub(super) fn upgraded(self, protocol: Protocol, pool: Option<&ConnectionPool>, mesh: &MeshSettings) -> Self {
        let http = pool.map(|pool| &pool.http);
        if http.is_some_and(|http| http.use_client_protocol) {
            return Self::Downstream;
        }
        let upgrade = http.and_then(|http| http.h2_upgrade).unwrap_or(mesh.h2_upgrade && protocol.is_http());
        if upgrade && self == Self::One { Self::Two } else { self }
    }
}

/// Sets thresholds, timeouts, keepalive and protocol options.
pub(super) fn apply(
    cluster: &mut Cluster,
    mesh: &MeshSettings,
    pool: Option<&ConnectionPool>,
    version: HttpVersion,
    upstream: UpstreamHttp,
) {
    let tcp = pool.map(|pool| &pool.tcp);
    let connect_timeout = tcp.and_then(|tcp| tcp.connect_timeout).unwrap_or(mesh.connect_timeout);
    cluster.connect_timeout = Some(wkt::duration(connect_timeout));
    cluster.circuit_breakers = Some(circuit_breakers(pool));
    cluster.upstream_connection_options = keepalive([mesh.tcp_keepalive.as_ref(), tcp.and_then(|tcp| tcp.keepalive.as_ref())]);
    cluster.typed_extension_protocol_options = protocol_options(common_options(pool), version, pool, upstream).unwrap_or_default();
}

/// Returns the protocol options of the passthrough clusters: the client's version, and five minutes without traffic at most.
pub(super) fn passthrough_options(preserves_case: bool) -> HashMap<String, Any> {
    let common = CommonHttpOptions { idle_timeout: Some(wkt::duration(std::time::Duration::from_secs(300))), ..Default::default() };
    let upstream = UpstreamHttp { preserves_case, ..UpstreamHttp::default() };
    protocol_options(Some(common), HttpVersion::Downstream, None, upstream).unwrap_or_default()
}

/// Returns the one threshold. What no policy limits gets a limit that is never reached.
pub(super) fn circuit_breakers(pool: Option<&ConnectionPool>) -> CircuitBreakers {
    let tcp = pool.map(|pool| &pool.tcp);
    let http = pool.map(|pool| &pool.http);
    let limit = |value: Option<u32>| wkt::uint32(value.unwrap_or(UNLIMITED));
    let threshold = Thresholds {
        max_connections: limit(tcp.and_then(|tcp| tcp.max_connections)),
        max_pending_requests: limit(http.and_then(|http| http.max_pending_requests)),
        max_requests: limit(http.and_then(|http| http.max_requests)),
        max_retries: limit(http.and_then(|http| http.max_retries)),
        ..Default::default()
    };
    CircuitBreakers { thresholds: vec![threshold], ..Default::default() }
}

/// Sets outlier detection; the panic threshold follows it even when it is zero (off).
pub(super) fn detect_outliers(cluster: &mut Cluster, detection: &OutlierDetection) {
    cluster.outlier_detection = Some(outlier_detection(detection));
    if let Some(common) = &mut cluster.common_lb_config {
        common.healthy_panic_threshold = Some(Percent { value: f64::from(detection.min_health_percent) });
    }
}

/// Returns an empty `common_lb_config`, which all service clusters have.
pub(super) fn common_lb_config() -> Option<CommonLbConfig> {
    Some(CommonLbConfig::default())
}

fn outlier_detection(detection: &OutlierDetection) -> EnvoyOutlierDetection {
    let enforcing = |errors: u32| wkt::uint32(if errors > 0 { 100 } else { 0 });
    let mut envoy = EnvoyOutlierDetection {
        enforcing_success_rate: wkt::uint32(0),
        interval: detection.interval.map(wkt::duration),
        base_ejection_time: detection.base_ejection_time.map(wkt::duration),
        max_ejection_percent: detection.max_ejection_percent.and_then(wkt::uint32),
        ..Default::default()
    };
    if let Some(errors) = detection.consecutive_5xx_errors {
        envoy.consecutive_5xx = wkt::uint32(errors);
        envoy.enforcing_consecutive_5xx = enforcing(errors);
    }
    if let Some(errors) = detection.consecutive_gateway_errors {
        envoy.consecutive_gateway_failure = wkt::uint32(errors);
        envoy.enforcing_consecutive_gateway_failure = enforcing(errors);
    }
    if detection.split_external_local_origin_errors {
        envoy.split_external_local_origin_errors = true;
        envoy.enforcing_local_origin_success_rate = wkt::uint32(0);
        if let Some(errors) = detection.consecutive_local_origin_failures.filter(|errors| *errors > 0) {
            envoy.consecutive_local_origin_failure = wkt::uint32(errors);
            envoy.enforcing_consecutive_local_origin_failure = wkt::uint32(100);
        }
    }
    envoy
}

// Later settings go over earlier ones, field by field.
fn keepalive(settings: [Option<&Keepalive>; 2]) -> Option<UpstreamConnectionOptions> {
    let seconds = |time: std::time::Duration| wkt::uint32(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    let mut keepalive: Option<TcpKeepalive> = None;
    for settings in settings.into_iter().flatten() {
        let keepalive = keepalive.get_or_insert_default();
        keepalive.keepalive_probes = settings.probes.and_then(wkt::uint32).or(keepalive.keepalive_probes);
        keepalive.keepalive_time = settings.time.and_then(seconds).or(keepalive.keepalive_time);
        keepalive.keepalive_interval = settings.interval.and_then(seconds).or(keepalive.keepalive_interval);
    }
    keepalive.map(|keepalive| UpstreamConnectionOptions { tcp_keepalive: Some(keepalive), ..Default::default() })
}

fn common_options(pool: Option<&ConnectionPool>) -> Option<CommonHttpOptions> {
    let tcp = pool.map(|pool| &pool.tcp);
    let http = pool.map(|pool| &pool.http);
    let idle = http.and_then(|http| http.idle_timeout).or(tcp.and_then(|tcp| tcp.idle_timeout));
    let longest = tcp.and_then(|tcp| tcp.max_connection_duration);
    let requests = http.and_then(|http| http.max_requests_per_connection);
    let streams = http.and_then(|http| http.max_concurrent_streams);
    let set = idle.is_some() || longest.is_some() || requests.is_some() || streams.is_some();
    set.then(|| CommonHttpOptions {
        idle_timeout: idle.map(wkt::duration),
        max_connection_duration: longest.map(wkt::duration),
        max_requests_per_connection: requests.and_then(wkt::uint32),
        ..Default::default()
    })
}

// HTTP/1 without settings needs no options: it is Envoy's default.
fn protocol_options(
    common: Option<CommonHttpOptions>,
    version: HttpVersion,
    pool: Option<&ConnectionPool>,
    UpstreamHttp { names, filters, preserves_case }: UpstreamHttp,
) -> Option<HashMap<String, Any>> {
    if common.is_none() && names.is_none() && filters.is_empty() && version == HttpVersion::One && !preserves_case {
        return None;
    }
    let streams = pool.and_then(|pool| pool.http.max_concurrent_streams);
    let http1 = Http1ProtocolOptions { header_key_format: preserves_case.then(preserving_case), ..Default::default() };
    let upstream = match version {
        HttpVersion::One => UpstreamProtocolOptions::ExplicitHttpConfig(explicit(ProtocolConfig::HttpProtocolOptions(http1))),
        HttpVersion::Two => {
            UpstreamProtocolOptions::ExplicitHttpConfig(explicit(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
                max_concurrent_streams: streams.and_then(wkt::uint32),
                ..Default::default()
            })))
        }
        HttpVersion::Downstream => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(http1),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..Default::default()
        }),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_http_protocol_options: names,
        upstream_protocol_options: Some(upstream),
        http_filters: filters,
        ..Default::default()
    };
    Some(HashMap::from([(PROTOCOL_OPTIONS.to_owned(), wkt::any(&options))]))
}

fn explicit(config: ProtocolConfig) -> ExplicitHttpConfig {
    ExplicitHttpConfig { protocol_config: Some(config) }
}

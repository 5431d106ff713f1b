//! `extensionProviders` of MeshConfig: what proxies ask and what they report to, by name.

mod access_log;
mod tracer;

use std::time::Duration;

use smol_str::SmolStr;

pub use self::{
    access_log::{FileAccessLog, GrpcAccessLog, LogFormat, OtelAccessLog, StreamKind},
    tracer::{OpenTelemetry, OtelExport, Zipkin},
};

/// `extensionProviders[]`
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProvider {
    /// `name`
    pub name: SmolStr,
    /// What it is; `None` for a kind that is not applied, or one that cannot be used.
    pub provider: Option<Provider>,
}

/// The kinds of providers that are applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Provider {
    /// `envoyExtAuthzHttp`, `envoyExtAuthzGrpc`
    ExtAuthz(ExtAuthz),
    /// `envoyFileAccessLog`
    FileAccessLog(FileAccessLog),
    /// `envoyHttpAls`, `envoyTcpAls`
    GrpcAccessLog(GrpcAccessLog),
    /// `envoyOtelAls`
    OtelAccessLog(OtelAccessLog),
    /// `zipkin`
    Zipkin(Zipkin),
    /// `opentelemetry`
    OpenTelemetry(OpenTelemetry),
    /// `prometheus`: whoever reports to it can be scraped.
    Prometheus,
}

/// `service` and `port` of a provider: whom proxies call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderService {
    /// `service`, as it is written: `host`, or `namespace/host`.
    pub service: SmolStr,
    /// `port`
    pub port: u16,
}

/// `envoyExtAuthzHttp`, `envoyExtAuthzGrpc`: a server that says whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtAuthz {
    /// `service`, as it is written: `host`, or `namespace/host`.
    pub service: SmolStr,
    /// `port`
    pub port: u16,
    /// `timeout`; `None` for Istio's default.
    pub timeout: Option<Duration>,
    /// `failOpen`
    pub fail_open: bool,
    /// `clearRouteCache`
    pub clear_route_cache: bool,
    /// `statusOnError`; `None` for 403.
    pub status_on_error: Option<u16>,
    /// `includeRequestBodyInCheck`
    pub body: Option<RequestBody>,
    /// What it speaks.
    pub protocol: ExtAuthzProtocol,
}

/// What a server speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtAuthzProtocol {
    /// Envoy's own service, over gRPC.
    Grpc,
    /// Plain HTTP: the status says it.
    Http(HttpCheck),
}

/// The fields that only `envoyExtAuthzHttp` has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// `pathPrefix`
    pub path_prefix: SmolStr,
    /// `includeRequestHeadersInCheck`, or the older `includeHeadersInCheck`.
    pub request_headers: Vec<SmolStr>,
    /// `includeAdditionalHeadersInCheck`, by name.
    pub additional_headers: Vec<(SmolStr, SmolStr)>,
    /// `headersToUpstreamOnAllow`
    pub to_upstream_on_allow: Vec<SmolStr>,
    /// `headersToDownstreamOnDeny`
    pub to_downstream_on_deny: Vec<SmolStr>,
    /// `headersToDownstreamOnAllow`
    pub to_downstream_on_allow: Vec<SmolStr>,
}

/// `includeRequestBodyInCheck`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestBody {
    /// `maxRequestBytes`
    pub max_bytes: u32,
    /// `allowPartialMessage`
    pub partial: bool,
    /// `packAsBytes`
    pub as_bytes: bool,
}

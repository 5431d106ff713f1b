//! The providers that access logs are written to.

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::ProviderService;

/// `envoyFileAccessLog`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileAccessLog {
    /// `path`; empty for standard output.
    pub path: SmolStr,
    /// `logFormat`; `None` for Istio's text.
    pub format: Option<LogFormat>,
    /// `omitEmptyValues`
    pub omit_empty_values: bool,
}

/// What an entry looks like.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// A text in Envoy's format language; empty for Istio's.
    Text(SmolStr),
    /// A JSON object whose texts are in that language; empty for Istio's.
    Json(Map<String, Value>),
}

/// `envoyHttpAls`, `envoyTcpAls`: Envoy's own service, over gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcAccessLog {
    /// Which of the two it is.
    pub kind: StreamKind,
    /// `service`, `port`
    pub server: ProviderService,
    /// `logName`; empty for Istio's.
    pub log_name: SmolStr,
    /// `filterStateObjectsToLog`; empty for Istio's.
    pub filter_state: Vec<SmolStr>,
}

/// What the entries are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// `envoyHttpAls`: requests.
    Http {
        /// `additionalRequestHeadersToLog`
        request_headers: Vec<SmolStr>,
        /// `additionalResponseHeadersToLog`
        response_headers: Vec<SmolStr>,
        /// `additionalResponseTrailersToLog`
        response_trailers: Vec<SmolStr>,
    },
    /// `envoyTcpAls`: connections.
    Tcp,
}

/// `envoyOtelAls`: OpenTelemetry's logs service, over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtelAccessLog {
    /// `service`, `port`
    pub server: ProviderService,
    /// `logName`; empty for Istio's.
    pub log_name: SmolStr,
    /// `logFormat.text`, which becomes the body; empty for Istio's text.
    pub text: SmolStr,
    /// `logFormat.labels`, which become attributes, sorted by name. What is no text is an empty one, as in Istio.
    pub labels: Vec<(SmolStr, SmolStr)>,
}

//! The providers that spans are sent to.

use std::time::Duration;

use smol_str::SmolStr;

use super::ProviderService;

/// `zipkin`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zipkin {
    /// `service`, `port`
    pub server: ProviderService,
    /// `maxTagLength`; `None` for Envoy's default.
    pub max_tag_length: Option<u32>,
    /// `enable64bitTraceId`
    pub short_trace_ids: bool,
    /// `path`; empty for Zipkin's.
    pub path: SmolStr,
    /// `traceContextOption: USE_B3_WITH_W3C_PROPAGATION`
    pub with_w3c: bool,
    /// `timeout`; `None` for Istio's default.
    pub timeout: Option<Duration>,
    /// `headers`: name and value.
    pub headers: Vec<(SmolStr, SmolStr)>,
}

/// `opentelemetry`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTelemetry {
    /// `service`, `port`
    pub server: ProviderService,
    /// `maxTagLength`; `None` for Envoy's default.
    pub max_tag_length: Option<u32>,
    /// `http` or `grpc`
    pub export: OtelExport,
    /// `resourceDetectors.environment`
    pub environment_detector: bool,
    /// `resourceDetectors.dynatrace`
    pub dynatrace_detector: bool,
}

/// How spans are sent by OpenTelemetry's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtelExport {
    /// `grpc`, and without either.
    Grpc {
        /// `timeout`
        timeout: Option<Duration>,
        /// `initialMetadata`: name and value.
        metadata: Vec<(SmolStr, SmolStr)>,
    },
    /// `http`
    Http {
        /// `path`
        path: SmolStr,
        /// `timeout`; `None` for a few seconds.
        timeout: Option<Duration>,
        /// `headers`: name and value.
        headers: Vec<(SmolStr, SmolStr)>,
    },
}

//! `telemetry.istio.io Telemetry`

use std::time::Duration;

use smol_str::SmolStr;

use super::PolicyTarget;

/// `spec` of a Telemetry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// `selector`, `targetRef`, `targetRefs`
    pub target: PolicyTarget,
    /// `tracing`
    pub tracing: Vec<Tracing>,
    /// `metrics`
    pub metrics: Vec<Metrics>,
    /// `accessLogging`
    pub access_logging: Vec<AccessLogging>,
}

impl Telemetry {
    /// Iterates over the names of all providers.
    pub fn providers(&self) -> impl Iterator<Item = &SmolStr> {
        let logging = self.access_logging.iter().map(|entry| &entry.providers);
        let tracing = self.tracing.iter().map(|entry| &entry.providers);
        logging.chain(tracing).chain(self.metrics.iter().map(|entry| &entry.providers)).flatten()
    }
}

/// `accessLogging[]`: where requests and connections are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLogging {
    /// `match.mode`
    pub mode: WorkloadMode,
    /// `providers[].name`
    pub providers: Vec<SmolStr>,
    /// `disabled`
    pub disabled: bool,
    /// `filter.expression`; `None` without a `filter`.
    pub filter: Option<SmolStr>,
}

/// `tracing[]`: which requests are traced, and how. `None` stands for a field that is not set: what is wider counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracing {
    /// `match.mode`
    pub mode: WorkloadMode,
    /// `providers[].name`
    pub providers: Vec<SmolStr>,
    /// `randomSamplingPercentage`
    pub random_sampling_percentage: Option<f64>,
    /// `disableSpanReporting`
    pub disable_span_reporting: Option<bool>,
    /// `customTags`, sorted by name.
    pub custom_tags: Option<Vec<(SmolStr, CustomTag)>>,
    /// `useRequestIdForTraceSampling`
    pub use_request_id: Option<bool>,
    /// `enableIstioTags`
    pub enable_istio_tags: Option<bool>,
    /// `disableContextPropagation`
    pub disable_context_propagation: Option<bool>,
}

/// `customTags.*`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CustomTag {
    /// `literal.value`
    Literal(SmolStr),
    /// `environment`: a variable of the proxy.
    Environment {
        /// `name`
        name: SmolStr,
        /// `defaultValue`
        default: SmolStr,
    },
    /// `header`: of the request.
    Header {
        /// `name`
        name: SmolStr,
        /// `defaultValue`
        default: SmolStr,
    },
    /// `formatter.value`, in the language of access logs.
    Formatter(SmolStr),
}

/// `metrics[]`: which metrics are reported, and with which tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// `providers[].name`
    pub providers: Vec<SmolStr>,
    /// `overrides`
    pub overrides: Vec<MetricsOverride>,
    /// `reportingInterval`
    pub reporting_interval: Option<Duration>,
}

/// `overrides[]`: what is done otherwise for some metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsOverride {
    /// `match.metric`, `match.customMetric`; `None` for all metrics.
    pub metric: Option<SmolStr>,
    /// `match.mode`
    pub mode: WorkloadMode,
    /// `disabled`
    pub disabled: Option<bool>,
    /// `tagOverrides`, sorted by name: the expression that makes the tag, or `None` where it is removed.
    pub tags: Vec<(SmolStr, Option<SmolStr>)>,
}

/// The names of Istio's metrics as `match.metric` writes them, sorted, each with that of its series (without the prefix).
pub const METRICS: [(&str, &str); 10] = [
    ("GRPC_REQUEST_MESSAGES", "request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "response_messages_total"),
    ("REQUEST_COUNT", "requests_total"),
    ("REQUEST_DURATION", "request_duration_milliseconds"),
    ("REQUEST_SIZE", "request_bytes"),
    ("RESPONSE_SIZE", "response_bytes"),
    ("TCP_CLOSED_CONNECTIONS", "tcp_connections_closed_total"),
    ("TCP_OPENED_CONNECTIONS", "tcp_connections_opened_total"),
    ("TCP_RECEIVED_BYTES", "tcp_received_bytes_total"),
    ("TCP_SENT_BYTES", "tcp_sent_bytes_total"),
];

/// `match.mode`: which side of a workload's traffic is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkloadMode {
    /// `CLIENT_AND_SERVER`; `UNDEFINED` where extensions say it
    #[default]
    ClientAndServer,
    /// `CLIENT`: what workloads send, and what goes through gateways.
    Client,
    /// `SERVER`: what workloads receive.
    Server,
}

//! Which endpoints count as failed and get no traffic for a while.

use std::time::Duration;

/// What makes an endpoint an outlier; `None` is Envoy's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Whether errors on this side (no connection, timeouts) are counted apart from errors that the endpoint answers with.
    pub split_external_local_origin_errors: bool,
    /// How many errors on this side in a row eject the endpoint.
    pub consecutive_local_origin_failures: Option<u32>,
    /// How many answers of 502, 503 and 504 in a row eject the endpoint; zero: they are not counted.
    pub consecutive_gateway_errors: Option<u32>,
    /// How many answers of 5xx in a row eject the endpoint; zero: they are not counted.
    pub consecutive_5xx_errors: Option<u32>,
    /// The time between two checks.
    pub interval: Option<Duration>,
    /// How long an endpoint stays ejected the first time.
    pub base_ejection_time: Option<Duration>,
    /// The share of endpoints that may be ejected at once, in percent.
    pub max_ejection_percent: Option<u32>,
    /// The share of healthy endpoints below which all are used, in percent; zero: never.
    pub min_health_percent: u32,
}

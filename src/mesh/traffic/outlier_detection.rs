//! When an endpoint counts as failed and is left out for a while.

use std::time::Duration;

/// What makes an endpoint an outlier; `None` is Envoy's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Errors on this side (no connection, timeouts) are told from those that the endpoint answers.
    pub split_external_local_origin_errors: bool,
    /// Errors on this side in a row.
    pub consecutive_local_origin_failures: Option<u32>,
    /// 502, 503 and 504 in a row; zero: not counted.
    pub consecutive_gateway_errors: Option<u32>,
    /// 5xx in a row; zero: not counted.
    pub consecutive_5xx_errors: Option<u32>,
    /// Between two looks at the endpoints.
    pub interval: Option<Duration>,
    /// How long an endpoint is left out the first time.
    pub base_ejection_time: Option<Duration>,
    /// At most this part of the endpoints is left out.
    pub max_ejection_percent: Option<u32>,
    /// Below this part of healthy endpoints all are used; zero: never.
    pub min_health_percent: u32,
}

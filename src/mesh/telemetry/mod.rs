//! What proxies report of the traffic that passes them, and to whom: Telemetry objects over the providers and defaults of MeshConfig
//! (contract §6.8, §7).
//!
//! [`EffectiveTelemetry`] is what all that means for one proxy. It holds nothing of objects that say nothing about that proxy, so that
//! a change of them does not concern it.

mod access_logging;
mod effective;
mod metrics;
mod tracing;

pub use self::{
    effective::{AccessLog, EffectiveTelemetry, Percentage, SideTelemetry, Tracer, Tracing, UnseenCollector},
    metrics::{MetricOverride, ReportedMetrics},
};
use super::policy_table::{Attachment, Policy};
pub use crate::api::istio::{CustomTag, METRICS};
use crate::api::istio::{Telemetry, WorkloadMode};

/// Which traffic of a proxy is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// What a sidecar's application sends, and all that passes a gateway.
    Client,
    /// What a sidecar's application receives.
    Server,
}

impl Side {
    /// Returns whether a mode means this side.
    pub(in crate::mesh) fn is_meant(self, mode: WorkloadMode) -> bool {
        match mode {
            WorkloadMode::ClientAndServer => true,
            WorkloadMode::Client => self == Self::Client,
            WorkloadMode::Server => self == Self::Server,
        }
    }
}

impl Policy for Telemetry {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_target(&self.target)
    }
}

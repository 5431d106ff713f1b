//! `telemetry.istio.io Telemetry`

use smol_str::SmolStr;

use super::PolicyTarget;

/// `spec` of a Telemetry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// `selector`, `targetRef`, `targetRefs`
    pub target: PolicyTarget,
    /// `accessLogging`
    pub access_logging: Vec<AccessLogging>,
}

impl Telemetry {
    /// Iterates over the names of all providers.
    pub fn providers(&self) -> impl Iterator<Item = &SmolStr> {
        self.access_logging.iter().flat_map(|entry| &entry.providers)
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

/// `match.mode`: which side of the traffic is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadMode {
    /// `CLIENT_AND_SERVER`
    #[default]
    ClientAndServer,
    /// `CLIENT`: what workloads send, and what goes through gateways.
    Client,
    /// `SERVER`: what workloads receive.
    Server,
}

//! `networking.istio.io DestinationRule`

use std::sync::Arc;

use smol_str::SmolStr;

use super::TrafficPolicy;
use crate::api::Labels;

/// `spec` of a DestinationRule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationRule {
    /// `host`, as written.
    pub host: SmolStr,
    /// `trafficPolicy`
    pub traffic_policy: Option<Arc<TrafficPolicy>>,
    /// `subsets`
    pub subsets: Vec<Subset>,
    /// `exportTo`, as written.
    pub export_to: Vec<SmolStr>,
    /// `workloadSelector.matchLabels`
    pub workload_selector: Option<Labels>,
}

/// `subsets[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subset {
    /// `name`
    pub name: SmolStr,
    /// `labels`
    pub labels: Labels,
    /// `trafficPolicy`
    pub traffic_policy: Option<Arc<TrafficPolicy>>,
}

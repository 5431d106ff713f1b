//! `networking.istio.io ServiceEntry` and `WorkloadEntry`

use smol_str::SmolStr;

use super::Port;
use crate::api::Labels;

/// `spec` of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceEntry {
    /// `hosts`
    pub hosts: Vec<SmolStr>,
    /// `addresses`: IPs or CIDRs.
    pub addresses: Vec<SmolStr>,
    /// `ports`
    pub ports: Vec<Port>,
    /// `location: MESH_INTERNAL` (the default is MESH_EXTERNAL).
    pub mesh_internal: bool,
    /// `resolution`
    pub resolution: ServiceEntryResolution,
    /// `endpoints`
    pub endpoints: Vec<WorkloadEntry>,
    /// `workloadSelector.labels`
    pub workload_selector: Option<Labels>,
    /// `exportTo`, as written.
    pub export_to: Vec<SmolStr>,
    /// `subjectAltNames`
    pub subject_alt_names: Vec<SmolStr>,
}

/// `resolution`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceEntryResolution {
    /// `NONE`
    #[default]
    None,
    /// `STATIC`
    Static,
    /// `DNS`
    Dns,
    /// `DNS_ROUND_ROBIN`
    DnsRoundRobin,
    /// `DYNAMIC_DNS`
    DynamicDns,
}

/// `spec` of a WorkloadEntry, and `endpoints[]` of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadEntry {
    /// `address`: IP, DNS name or `unix://…`.
    pub address: SmolStr,
    /// `ports`, sorted by the name of the service port.
    pub ports: Vec<(SmolStr, u16)>,
    /// `labels`
    pub labels: Labels,
    /// `network`
    pub network: SmolStr,
    /// `locality`: `region/zone/subzone`
    pub locality: SmolStr,
    /// `weight`; 0 counts as 1.
    pub weight: u32,
    /// `serviceAccount`
    pub service_account: SmolStr,
}

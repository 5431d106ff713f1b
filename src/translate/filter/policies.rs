//! The filters that hold the policies of a workload, in the order in which requests and connections pass them.

use envoy_types::pb::envoy::{config::listener::v3::Filter, extensions::filters::network::http_connection_manager::v3::HttpFilter};

use smol_str::SmolStr;

use super::{
    ext_authz,
    rate_limits::LimitFilters,
    rbac::{self, custom},
};
use crate::mesh::policy::workload::WorkloadPolicies;

/// The filters of one workload's policies. They are made once for a listener, however many chains it has.
#[derive(Clone, Debug, Default)]
pub struct PolicyFilters {
    /// Those of a connection manager that come before tokens are looked at.
    pub asking: Vec<HttpFilter>,
    /// Those of a connection manager that come after.
    pub http: Vec<HttpFilter>,
    /// Those of a chain that ends in a TCP proxy that have somebody asked.
    pub asking_of_connections: Vec<Filter>,
    /// Those of such a chain that come after.
    pub network: Vec<Filter>,
    /// The clusters of those that are asked.
    pub clusters: Vec<SmolStr>,
    /// Those of a connection manager that hold limits, behind all others.
    pub limits: LimitFilters,
}

impl PolicyFilters {
    /// Makes the filters.
    pub fn of(policies: &WorkloadPolicies) -> Self {
        Self {
            asking: custom::http_filters(policies),
            http: rbac::http_filters(&policies.authorization),
            asking_of_connections: custom::network_filters(policies),
            network: rbac::network_filters(&policies.authorization),
            clusters: policies.authorizers.values().flatten().map(ext_authz::cluster).collect(),
            limits: LimitFilters::of(&policies.rate_limits),
        }
    }
}

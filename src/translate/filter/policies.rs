//! The filters that hold the policies of a workload, in the order in which requests and connections pass them.

use envoy_types::pb::envoy::{config::listener::v3::Filter, extensions::filters::network::http_connection_manager::v3::HttpFilter};

use super::rbac;
use crate::mesh::policy::workload::WorkloadPolicies;

/// The filters of one workload's policies. They are made once for a listener, however many chains it has.
#[derive(Clone, Debug, Default)]
pub struct PolicyFilters {
    /// Those of a connection manager.
    pub http: Vec<HttpFilter>,
    /// Those of a chain that ends in a TCP proxy.
    pub network: Vec<Filter>,
}

impl PolicyFilters {
    /// Makes the filters.
    pub fn of(policies: &WorkloadPolicies) -> Self {
        Self { http: rbac::http_filters(&policies.authorization), network: rbac::network_filters(&policies.authorization) }
    }
}

//! How traffic to a service is treated (contract §6.3): load balancing, connection pools, outlier detection, TLS.
//!
//! DestinationRules are converted to these values once, by [`istio`]; what another API says of traffic becomes the
//! same values.

mod client_tls;
mod connection_pool;
mod destination_rule;
pub(in crate::mesh) mod istio;
mod load_balancer;
mod locality_lb;
mod outlier_detection;
mod policy;
mod preference;

pub use self::{
    client_tls::{ClientCredentials, ClientFiles, ClientTls, TlsOrigination},
    connection_pool::{ConnectionPool, HttpSettings, TcpKeepalive, TcpSettings},
    destination_rule::{DestinationRule, EffectiveDestinationRule, EffectiveSubset, RulePlace, Subset},
    load_balancer::{ConsistentHash, HashKey, HashTable, LoadBalancer},
    locality_lb::{Distribute, LocalityLb, LocalityPattern, PriorityLabel},
    outlier_detection::OutlierDetection,
    policy::{PortPolicy, TrafficPolicy},
    preference::{Preference, own_place_detail, place_detail},
};

//! The nouns of the mesh: hostnames, services, endpoints, identities, proxies.
//!
//! Every type here is a plain immutable value. Large values are shared by `Arc`, and the engine keeps the old
//! `Arc` whenever a new value equals it: pointer equality then means "nothing changed".

mod eclipsed;
mod endpoint;
mod hostname;
mod identity;
pub mod label;
mod locality;
mod located_labels;
mod metrics_plan;
mod mtls;
mod origin;
mod place;
mod protocol;
mod proxy;
mod service;
mod unused_endpoint;
mod visibility;
mod workload;

pub use self::{
    eclipsed::{Eclipsed, Obstacle},
    endpoint::{Backend, Endpoint, EndpointAddress, EndpointSet, Health},
    hostname::Hostname,
    identity::{Caller, SpiffeId},
    locality::Locality,
    located_labels::LocatedLabels,
    metrics_plan::{MetricsPlan, StatsLogger},
    mtls::MtlsMode,
    origin::{NamedKey, Origin, Precedence},
    place::{Place, PlaceDetail, TrafficDistribution},
    protocol::Protocol,
    proxy::{ExactBalance, Flavour, Interception, Proxy, ProxyKind, ProxyPorts, TelemetryIdentity, WasmSupport},
    service::{Registry, Resolution, Service, ServiceKey, ServicePort, TargetPort, UNSPECIFIED},
    unused_endpoint::{Unusable, UnusedEndpoint},
    visibility::Visibility,
    workload::{Workload, WorkloadKey},
};
pub(crate) use crate::api::host_index::HostIndex;
pub use crate::api::{
    Labels, ObjectKey,
    proxy_config::{CertificateDetails, Disabled, ForwardedCertificate, GatewayTopology, ProxyHeaders, ServerHeader},
};

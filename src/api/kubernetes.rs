//! Kubernetes' own kinds, slim: only the fields that are read are kept.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::Labels;

/// `v1 Service`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// `spec.type` is `ExternalName`: the name it stands for.
    pub external_name: Option<SmolStr>,
    /// `spec.clusterIP` and `spec.clusterIPs`, without `None`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`
    pub headless: bool,
    /// `spec.selector`
    pub selector: Arc<Labels>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.publishNotReadyAddresses`
    pub publish_not_ready_addresses: bool,
    /// `spec.internalTrafficPolicy: Local`
    pub internal_traffic_local: bool,
}

/// `spec.ports[]` of a Service
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePort {
    /// `name`
    pub name: SmolStr,
    /// `port`
    pub port: u16,
    /// `targetPort`, number or name; absent: the port.
    pub target_port: Option<PortRef>,
    /// `protocol`; empty: TCP.
    pub protocol: SmolStr,
    /// `appProtocol`
    pub app_protocol: SmolStr,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(SmolStr),
}

/// `discovery.k8s.io/v1 EndpointSlice`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSlice {
    /// Label `kubernetes.io/service-name`.
    pub service: SmolStr,
    /// `addressType`: `IPv4`, `IPv6`, `FQDN`
    pub address_type: SmolStr,
    /// `(name, number)`; a port without a number is left out.
    pub ports: Vec<(SmolStr, u16)>,
    /// `endpoints`
    pub endpoints: Vec<SliceEndpoint>,
}

/// `endpoints[]` of an EndpointSlice
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceEndpoint {
    /// `addresses`
    pub addresses: Vec<SmolStr>,
    /// `conditions.ready`; absent: true.
    pub ready: bool,
    /// `conditions.serving`; absent: as ready.
    pub serving: bool,
    /// `conditions.terminating`
    pub terminating: bool,
    /// `nodeName`
    pub node: SmolStr,
    /// `zone`
    pub zone: SmolStr,
    /// `targetRef` when it is a Pod: `(namespace, name)`.
    pub pod: Option<(SmolStr, SmolStr)>,
}

/// `v1 Pod`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// `spec.serviceAccountName`; empty: `default`.
    pub service_account: SmolStr,
    /// `spec.nodeName`
    pub node: SmolStr,
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// `status.podIPs`, or `status.podIP`.
    pub ips: Arc<[IpAddr]>,
    /// `status.phase`
    pub phase: SmolStr,
    /// Named container ports: `(name, number)`. Shared: pods of one ReplicaSet mostly have the same.
    pub ports: Arc<[(SmolStr, u16)]>,
    /// The first owner's name, without the hash of a ReplicaSet, for the workload's name; empty when there is none.
    pub owner: SmolStr,
}

//! The built-in kinds of Kubernetes, reduced to the fields that are used.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::{Labels, confidential::Confidential};

/// `v1 Service`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// `spec.externalName`, if `spec.type` is `ExternalName`.
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
    /// `spec.trafficDistribution`
    pub traffic_distribution: SmolStr,
}

/// `spec.ports[]` of a Service
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePort {
    /// `name`
    pub name: SmolStr,
    /// `port`
    pub port: u16,
    /// `targetPort`, a number or a name; `None` for the port itself.
    pub target_port: Option<PortRef>,
    /// `protocol`; empty for TCP.
    pub protocol: SmolStr,
    /// `appProtocol`
    pub app_protocol: SmolStr,
}

/// A port by its number or name.
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
    /// Name and number of each port that has a number.
    pub ports: Vec<(SmolStr, u16)>,
    /// `endpoints`
    pub endpoints: Vec<SliceEndpoint>,
}

/// `endpoints[]` of an EndpointSlice
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceEndpoint {
    /// `addresses`
    pub addresses: Vec<SmolStr>,
    /// `conditions.ready`; true if absent.
    pub ready: bool,
    /// `conditions.serving`; the same as `ready` if absent.
    pub serving: bool,
    /// `conditions.terminating`
    pub terminating: bool,
    /// `nodeName`
    pub node: SmolStr,
    /// `zone`
    pub zone: SmolStr,
    /// Namespace and name of `targetRef`, if that is a Pod.
    pub pod: Option<(SmolStr, SmolStr)>,
}

/// `v1 Secret`: those of its entries that a certificate for TLS consists of, and what a registry asks for. All others stay unread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secret {
    /// The entries that are there, by key ([`CREDENTIAL_KEYS`](Self::CREDENTIAL_KEYS)).
    pub entries: Vec<(&'static str, Confidential)>,
}

impl Secret {
    /// The key of what registries ask for, in a `kubernetes.io/dockerconfigjson` Secret.
    pub const PULL_KEY: &'static str = ".dockerconfigjson";

    /// The keys of the entries that are read: those of a `kubernetes.io/tls` Secret, Istio's own, and that for registries.
    pub const CREDENTIAL_KEYS: [&'static str; 10] =
        ["tls.crt", "tls.key", "ca.crt", "ca.crl", "tls.ocsp-staple", "cert", "key", "cacert", "crl", Self::PULL_KEY];

    /// Returns an entry.
    pub fn entry(&self, key: &str) -> Option<&Confidential> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// `v1 ConfigMap`: those of its entries that peers are verified with. All others stay unread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// The entries that are there, by key ([`ROOT_KEYS`](Self::ROOT_KEYS)).
    pub entries: Vec<(&'static str, Confidential)>,
}

impl ConfigMap {
    /// The keys of the entries that are read, as those of a Secret are named.
    pub const ROOT_KEYS: [&'static str; 4] = ["ca.crt", "ca.crl", "cacert", "crl"];

    /// Returns an entry.
    pub fn entry(&self, key: &str) -> Option<&Confidential> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// `v1 Pod`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// `spec.serviceAccountName`; empty for `default`.
    pub service_account: SmolStr,
    /// `spec.nodeName`
    pub node: SmolStr,
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// `status.podIPs`, or `status.podIP`.
    pub ips: Arc<[IpAddr]>,
    /// `status.phase`
    pub phase: SmolStr,
    /// Whether the condition `Ready` is `True`.
    pub ready: bool,
    /// Whether it is being deleted: it has a `metadata.deletionTimestamp`.
    pub terminating: bool,
    /// Name and number of each named container port. Shared, since the pods of a ReplicaSet mostly have the same.
    pub ports: Arc<[(SmolStr, u16)]>,
    /// The name of the owner without the hash of a ReplicaSet, from which the workload is named; empty if there is no owner.
    pub owner: SmolStr,
}

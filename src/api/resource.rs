//! Where the API server keeps the kinds that are read.

use super::Kind;

/// A resource of the API server, as its discovery documents name it.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The versions that are read without the group. The first is the one that is asked for and stored.
    pub versions: &'static [&'static str],
    /// The plural, as in URLs and RBAC rules.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// Groups of Istio's kinds, all of which the validating webhook is asked about (contract §5.6).
pub const ISTIO_GROUPS: [&str; 4] = [NETWORKING, SECURITY, "telemetry.istio.io", "extensions.istio.io"];

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::Sidecar,
        Self::VirtualService,
        Self::WorkloadEntry,
        Self::PeerAuthentication,
        Self::MeshConfig,
    ];

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Where it is kept; `None` for MeshConfig, which is part of a ConfigMap.
    pub const fn resource(self) -> Option<&'static Resource> {
        Some(match self {
            Self::Namespace => &const { core("namespaces", false) },
            Self::Node => &const { core("nodes", false) },
            Self::Pod => &const { core("pods", true) },
            Self::Service => &const { core("services", true) },
            Self::EndpointSlice => &const { Resource { group: "discovery.k8s.io", ..core("endpointslices", true) } },
            Self::DestinationRule => &const { networking("destinationrules") },
            Self::Gateway => &const { networking("gateways") },
            Self::ServiceEntry => &const { networking("serviceentries") },
            Self::Sidecar => &const { networking("sidecars") },
            Self::VirtualService => &const { networking("virtualservices") },
            Self::WorkloadEntry => &const { networking("workloadentries") },
            Self::PeerAuthentication => {
                &const { Resource { group: SECURITY, versions: &["v1", "v1beta1"], ..networking("peerauthentications") } }
            }
            Self::MeshConfig => return None,
        })
    }

    /// Whether it is one of Istio's kinds.
    pub fn is_istio(self) -> bool {
        self.resource().is_some_and(|resource| ISTIO_GROUPS.contains(&resource.group))
    }
}

const fn core(plural: &'static str, namespaced: bool) -> Resource {
    Resource { group: "", versions: &["v1"], plural, namespaced }
}

const fn networking(plural: &'static str) -> Resource {
    Resource { group: NETWORKING, versions: &["v1", "v1beta1", "v1alpha3"], plural, namespaced: true }
}

//! The kinds that are watched, and what is read of each.

use super::keep::Keep;
use crate::api::{self, Kind};

/// One kind as the API server knows it.
#[derive(Debug)]
pub(super) struct Resource {
    /// What its objects become.
    pub(super) kind: Kind,
    /// API group; empty for the core.
    pub(super) group: &'static str,
    /// Its name in paths.
    pub(super) plural: &'static str,
    /// Versions that can be read, the preferred first.
    pub(super) versions: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub(super) namespaced: bool,
    /// Whether it comes with a CustomResourceDefinition, which may be absent, and obeys `istio.io/rev`.
    pub(super) custom: bool,
    /// Objects in one answer: kube holds each whole while it is read.
    pub(super) page: u32,
    /// What is read of an object.
    pub(super) keep: &'static Keep,
}

/// All kinds but MeshConfig.
pub(super) static RESOURCES: &[Resource] = &[
    core(Kind::Namespace, 500, &NAMED),
    core(Kind::Node, 100, &NAMED),
    core(Kind::Service, 500, &WITH_SPEC),
    core(Kind::EndpointSlice, 200, &SLICE),
    core(Kind::Pod, 200, &POD),
    istio(Kind::DestinationRule),
    istio(Kind::Gateway),
    istio(Kind::ServiceEntry),
    istio(Kind::Sidecar),
    istio(Kind::VirtualService),
    istio(Kind::WorkloadEntry),
    istio(Kind::PeerAuthentication),
];

/// ConfigMap `istio` (or `istio-<revision>`), which holds MeshConfig (contract §7).
pub(super) static MESH_CONFIG: Resource = core(Kind::MeshConfig, 1, &MESH);

const CONFIG_MAPS: api::Resource = api::Resource { group: "", versions: &["v1"], plural: "configmaps", namespaced: true };

const fn core(kind: Kind, page: u32, keep: &'static Keep) -> Resource {
    let &api::Resource { group, versions, plural, namespaced } = match kind.resource() {
        Some(resource) => resource,
        None => &CONFIG_MAPS,
    };
    Resource { kind, group, plural, versions, namespaced, custom: false, page, keep }
}

const fn istio(kind: Kind) -> Resource {
    Resource { custom: true, ..core(kind, 250, &WITH_SPEC) }
}

// Of annotations only those that something reads: `kubectl apply` leaves a whole copy of each object in them.
const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("labels", Keep::All),
    ("annotations", Keep::Prefixes(&["networking.istio.io/", "alpha.istio.io/", "traffic.istio.io/", "sidecar.istio.io/interceptionMode"])),
    ("creationTimestamp", Keep::All),
    ("generation", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("ownerReferences", Keep::Items(&Keep::Fields(&[("kind", Keep::All), ("name", Keep::All), ("controller", Keep::All)]))),
]);

static NAMED: Keep = Keep::Fields(&[("metadata", METADATA)]);

// Fields beside `spec` and `status` are mistakes that the reader names.
static WITH_SPEC: Keep = Keep::Fields(&[("metadata", METADATA), ("spec", Keep::All)]);

static MESH: Keep = Keep::Fields(&[("metadata", METADATA), ("data", Keep::Fields(&[("mesh", Keep::All)]))]);

static SLICE: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    ("addressType", Keep::All),
    ("ports", Keep::Items(&Keep::Fields(&[("name", Keep::All), ("port", Keep::All)]))),
    (
        "endpoints",
        Keep::Items(&Keep::Fields(&[
            ("addresses", Keep::All),
            ("conditions", Keep::All),
            ("nodeName", Keep::All),
            ("zone", Keep::All),
            ("targetRef", Keep::Fields(&[("kind", Keep::All), ("namespace", Keep::All), ("name", Keep::All)])),
        ])),
    ),
]);

const CONTAINERS: Keep = Keep::Items(&Keep::Fields(&[
    ("ports", Keep::Items(&Keep::Fields(&[("name", Keep::All), ("containerPort", Keep::All)]))),
    ("restartPolicy", Keep::All),
]));

static POD: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Keep::Fields(&[
            ("serviceAccountName", Keep::All),
            ("serviceAccount", Keep::All),
            ("nodeName", Keep::All),
            ("hostNetwork", Keep::All),
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
        ]),
    ),
    ("status", Keep::Fields(&[("phase", Keep::All), ("podIP", Keep::All), ("podIPs", Keep::All)])),
]);

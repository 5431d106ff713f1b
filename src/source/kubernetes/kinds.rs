//! The kinds that are watched, and the fields that are read of each.

use std::sync::LazyLock;

use super::field_mask::FieldMask;
use crate::api::{
    ApiResource, Kind,
    kubernetes::{ConfigMap, Secret},
};

/// A kind as the API server serves it, and how it is read.
#[derive(Debug)]
pub(super) struct WatchedResource {
    /// The kind that its objects become.
    pub(super) kind: Kind,
    /// The API group; empty for the core group.
    pub(super) group: &'static str,
    /// The name in paths.
    pub(super) plural: &'static str,
    /// The versions that can be read, in order of preference.
    pub(super) versions: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub(super) namespaced: bool,
    /// Whether the kind is defined by a CustomResourceDefinition, which may be absent, and its objects obey `istio.io/rev`.
    pub(super) custom: bool,
    /// The most objects of one page, which is in memory as a whole while it is read.
    pub(super) page_size: u32,
    /// Which objects are asked for (`fieldSelector`); empty: all.
    pub(super) selector: &'static str,
    /// The fields of an object that are read.
    pub(super) fields: &'static FieldMask,
}

/// All kinds that are watched, except MeshConfig.
pub(super) static RESOURCES: LazyLock<Vec<WatchedResource>> = LazyLock::new(|| Kind::ALL.into_iter().filter_map(watched).collect());

/// ConfigMap `istio` (or `istio-<revision>`), which holds MeshConfig (contract §7).
pub(super) static MESH_CONFIG: WatchedResource = WatchedResource {
    kind: Kind::MeshConfig,
    group: "",
    plural: "configmaps",
    versions: &["v1"],
    namespaced: true,
    custom: false,
    page_size: 1,
    selector: "",
    fields: &MESH,
};

fn watched(kind: Kind) -> Option<WatchedResource> {
    let &ApiResource { group, versions, plural, namespaced } = kind.resource()?;
    let (page_size, fields) = match kind {
        Kind::Namespace => (500, &NAMED),
        Kind::Node => (100, &NAMED),
        Kind::Service => (500, &WITH_SPEC),
        Kind::EndpointSlice => (200, &SLICE),
        Kind::Pod => (200, &POD),
        Kind::Secret => (100, &SECRET),
        Kind::ConfigMap => (100, &CONFIG_MAP),
        _ => (250, &WITH_SPEC),
    };
    let selector = if kind == Kind::Secret { NO_CREDENTIALS } else { "" };
    Some(WatchedResource { kind, group, plural, versions, namespaced, custom: !kind.is_local(), page_size, selector, fields })
}

/// What Helm stores of its releases, and the tokens of service accounts, are large or many, and hold no certificates.
const NO_CREDENTIALS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=bootstrap.kubernetes.io/token";

// Only the annotations that something reads, since `kubectl apply` stores a copy of the whole object in another one.
const METADATA: FieldMask = FieldMask::Fields(&[
    ("name", FieldMask::All),
    ("namespace", FieldMask::All),
    ("labels", FieldMask::All),
    (
        "annotations",
        FieldMask::Prefixes(&[
            "networking.istio.io/",
            "alpha.istio.io/",
            "istio.io/dry-run",
            "traffic.istio.io/",
            "topology.istio.io/",
            "sidecar.istio.io/interceptionMode",
        ]),
    ),
    ("creationTimestamp", FieldMask::All),
    ("deletionTimestamp", FieldMask::All),
    ("generation", FieldMask::All),
    ("uid", FieldMask::All),
    ("resourceVersion", FieldMask::All),
    (
        "ownerReferences",
        FieldMask::Items(&FieldMask::Fields(&[("kind", FieldMask::All), ("name", FieldMask::All), ("controller", FieldMask::All)])),
    ),
]);

static NAMED: FieldMask = FieldMask::Fields(&[("metadata", METADATA)]);

static WITH_SPEC: FieldMask = FieldMask::Fields(&[("metadata", METADATA), ("spec", FieldMask::All)]);

static MESH: FieldMask = FieldMask::Fields(&[("metadata", METADATA), ("data", FieldMask::Fields(&[("mesh", FieldMask::All)]))]);

static SLICE: FieldMask = FieldMask::Fields(&[
    ("metadata", METADATA),
    ("addressType", FieldMask::All),
    ("ports", FieldMask::Items(&FieldMask::Fields(&[("name", FieldMask::All), ("port", FieldMask::All)]))),
    (
        "endpoints",
        FieldMask::Items(&FieldMask::Fields(&[
            ("addresses", FieldMask::All),
            ("conditions", FieldMask::All),
            ("nodeName", FieldMask::All),
            ("zone", FieldMask::All),
            ("targetRef", FieldMask::Fields(&[("kind", FieldMask::All), ("namespace", FieldMask::All), ("name", FieldMask::All)])),
        ])),
    ),
]);

// Neither labels, in which Helm and others write much, nor any entry that no certificate has.
static SECRET: FieldMask = FieldMask::Fields(&[("metadata", IDENTITY), ("data", FieldMask::Named(&Secret::CREDENTIAL_KEYS))]);

static CONFIG_MAP: FieldMask = FieldMask::Fields(&[("metadata", IDENTITY), ("data", FieldMask::Named(&ConfigMap::ROOT_KEYS))]);

const IDENTITY: FieldMask = FieldMask::Fields(&[
    ("name", FieldMask::All),
    ("namespace", FieldMask::All),
    ("creationTimestamp", FieldMask::All),
    ("uid", FieldMask::All),
    ("resourceVersion", FieldMask::All),
]);

const CONTAINERS: FieldMask = FieldMask::Items(&FieldMask::Fields(&[
    ("ports", FieldMask::Items(&FieldMask::Fields(&[("name", FieldMask::All), ("containerPort", FieldMask::All)]))),
    ("restartPolicy", FieldMask::All),
]));

static POD: FieldMask = FieldMask::Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        FieldMask::Fields(&[
            ("serviceAccountName", FieldMask::All),
            ("serviceAccount", FieldMask::All),
            ("nodeName", FieldMask::All),
            ("hostNetwork", FieldMask::All),
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
        ]),
    ),
    (
        "status",
        FieldMask::Fields(&[
            ("phase", FieldMask::All),
            ("conditions", FieldMask::Items(&FieldMask::Fields(&[("type", FieldMask::All), ("status", FieldMask::All)]))),
            ("podIP", FieldMask::All),
            ("podIPs", FieldMask::All),
        ]),
    ),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::value::{Allowance, MOST_OF_DOCUMENT};

    // What is not read protects nothing, or everything.
    #[test]
    fn of_configuration_all_that_it_says_is_read() {
        let annotations = json!({ "istio.io/dry-run": "true", "networking.istio.io/exportTo": "." });
        let object = json!({ "metadata": { "name": "a", "labels": { "b": "c" }, "annotations": annotations }, "spec": { "rules": [{}] } });
        for resource in RESOURCES.iter().filter(|resource| resource.kind.is_configuration()) {
            let read = resource.fields.read(&object.to_string(), &Allowance::new(MOST_OF_DOCUMENT)).unwrap();
            assert_eq!(read, object, "{}", resource.kind);
        }
    }
}

//! Renders the proxy's volumes: its token, the roots of the mesh, the pod's labels, its own folders (contract §5.4).

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, ObjectFieldSelector,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use super::{Template, TemplateInputs};

/// The folder of sockets and bootstrap.
pub(super) const WORK_DIR: &str = "/etc/istio/proxy";
/// The file with the pod's labels, which the downward API writes.
pub(super) const LABELS_FILE: &str = "/etc/istio/pod/labels";

const ENVOY: &str = "istio-envoy";
const DATA: &str = "istio-data";
const POD_INFO: &str = "istio-podinfo";
const TOKEN: &str = "istio-token";
const ROOTS: &str = "istiod-ca-cert";
const REVOCATION: &str = "istio-ca-crl";
/// The names of the proxy's own volumes.
pub(in crate::webhook::inject) const OWN: [&str; 6] = [ENVOY, DATA, POD_INFO, TOKEN, ROOTS, REVOCATION];

/// The audience of a workload's token (contract §4.2), and its lifetime. The kubelet renews it.
const TOKEN_AUDIENCE: &str = "istio-ca";
const TOKEN_SECONDS: i64 = 43200;

/// Returns the volumes, including those of the pod's annotation.
pub(super) fn of(template: Template, inputs: &TemplateInputs<'_>) -> Vec<Volume> {
    let own = [
        Volume { empty_dir: Some(EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: None }), ..named(ENVOY) },
        Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..named(DATA) },
        Volume { downward_api: Some(pod_info()), ..named(POD_INFO) },
        Volume { projected: Some(token()), ..named(TOKEN) },
        Volume {
            config_map: Some(ConfigMapVolumeSource { name: "istio-ca-root-cert".to_owned(), ..ConfigMapVolumeSource::default() }),
            ..named(ROOTS)
        },
        // There is one where certificates were revoked.
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: REVOCATION.to_owned(),
                optional: Some(true),
                ..ConfigMapVolumeSource::default()
            }),
            ..named(REVOCATION)
        },
    ];
    let asked = inputs.annotations.volumes.iter().filter(|_| template == Template::Sidecar);
    own.into_iter().chain(asked.cloned()).collect()
}

/// Returns where the volumes are mounted in the proxy's container.
pub(super) fn mounts(template: Template, inputs: &TemplateInputs<'_>) -> Vec<VolumeMount> {
    let own = [
        (ENVOY, WORK_DIR),
        (DATA, "/var/lib/istio/data"),
        (POD_INFO, "/etc/istio/pod"),
        (TOKEN, "/var/run/secrets/tokens"),
        (ROOTS, "/var/run/secrets/istio"),
        (REVOCATION, "/var/run/secrets/istio/crl"),
    ];
    let own = own.map(|(name, path)| VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() });
    let asked = inputs.annotations.volume_mounts.iter().filter(|_| template == Template::Sidecar);
    own.into_iter().chain(asked.cloned()).collect()
}

fn named(name: &str) -> Volume {
    Volume { name: name.to_owned(), ..Volume::default() }
}

fn pod_info() -> DownwardAPIVolumeSource {
    let items = ["labels", "annotations"].map(|field| DownwardAPIVolumeFile {
        path: field.to_owned(),
        field_ref: Some(ObjectFieldSelector { field_path: format!("metadata.{field}"), api_version: None }),
        ..DownwardAPIVolumeFile::default()
    });
    DownwardAPIVolumeSource { items: Some(items.into()), default_mode: None }
}

fn token() -> ProjectedVolumeSource {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "istio-token".to_owned(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    ProjectedVolumeSource { sources: Some(vec![source]), default_mode: None }
}

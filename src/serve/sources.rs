//! The sources of a control plane: objects, and the MeshConfig file that may go over one of them.

use std::time::Duration;

use smol_str::SmolStr;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};

use super::settings::{ObjectSource, Settings};
use crate::{
    api::{Diagnostic, Spec, mesh_config::MeshConfig, trust_bundle::TrustBundle},
    source::{SourceEvent, folder::Folder, key_sets, kubernetes, mesh_config::MeshConfigFile, trust_bundles},
};

/// How long it may take to fetch the roots that another mesh publishes, and the first world to wait for them.
const BUNDLE_PATIENCE: Duration = Duration::from_secs(10);

/// Returns the MeshConfig at the start: the file's, else the API server's, else the defaults.
///
/// # Errors
/// When there is a file and it cannot be read.
pub(super) async fn mesh_config(settings: &Settings) -> anyhow::Result<MeshConfig> {
    let object = match (mesh_config_file(settings), &settings.source) {
        (Some(file), _) => {
            let text = |found: &[Diagnostic]| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Some(file.read().map_err(|found| anyhow::anyhow!("--meshConfig: {}", text(&found)))?.0)
        }
        (None, ObjectSource::Kubernetes(server)) => kubernetes::mesh_config(server).await,
        (None, ObjectSource::Folder(_)) => None,
    };
    Ok(match object.as_ref().map(|object| &object.spec) {
        Some(Spec::MeshConfig(mesh)) => MeshConfig::clone(mesh),
        _ => MeshConfig::default(),
    })
}

/// Starts to read, and returns what the sources say. `own`: the roots of our own CA, now and whenever they differ.
///
/// # Errors
/// When the folder cannot be watched.
pub(super) fn events(
    settings: &Settings,
    own: watch::Receiver<TrustBundle>,
) -> anyhow::Result<impl Stream<Item = SourceEvent> + Send + use<>> {
    let (file_sender, file_events) = mpsc::channel(1);
    let events = match &settings.source {
        ObjectSource::Folder(folder) => {
            if let Some(file) = mesh_config_file(settings) {
                tokio::spawn(file.follow(file_sender));
            }
            Folder { cluster: SmolStr::new(&settings.cluster.cluster_id), ..Folder::new(folder) }.watch()?
        }
        // It follows the file by itself, because the settings decide what it reads.
        ObjectSource::Kubernetes(server) => kubernetes::watch(kubernetes::Settings::clone(server), mesh_config_file(settings)),
    };
    let cluster = SmolStr::new(&settings.cluster.cluster_id);
    let trust = trust_bundles::Settings {
        own: settings.trust.multi_root.then_some(own),
        refresh: settings.trust.refresh,
        patience: BUNDLE_PATIENCE,
        web_roots: settings.key_sets.roots.clone(),
    };
    let events = trust_bundles::joined(trust, cluster.clone(), ReceiverStream::new(events).merge(ReceiverStream::new(file_events)));
    Ok(key_sets::joined(settings.key_sets.clone(), cluster, events))
}

fn mesh_config_file(settings: &Settings) -> Option<MeshConfigFile> {
    let cluster = SmolStr::new(&settings.cluster.cluster_id);
    settings.cluster.config_file.clone().map(|path| MeshConfigFile { path, cluster })
}

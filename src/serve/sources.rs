//! The sources of a control plane: objects, and the MeshConfig file that may go over one of them.

use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};

use super::settings::{ObjectSource, Settings};
use crate::{
    api::{Diagnostic, Spec, mesh_config::MeshConfig},
    source::{SourceEvent, folder::Folder, key_sets, kubernetes, mesh_config::MeshConfigFile},
};

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

/// Starts to read, and returns what the sources say.
///
/// # Errors
/// When the folder cannot be watched.
pub(super) fn events(settings: &Settings) -> anyhow::Result<impl Stream<Item = SourceEvent> + Send + use<>> {
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
    Ok(key_sets::joined(settings.key_sets.clone(), cluster, ReceiverStream::new(events).merge(ReceiverStream::new(file_events))))
}

fn mesh_config_file(settings: &Settings) -> Option<MeshConfigFile> {
    let cluster = SmolStr::new(&settings.cluster.cluster_id);
    settings.cluster.config_file.clone().map(|path| MeshConfigFile { path, cluster })
}

//! A MeshConfig file as a source: it is read at the start and then checked every second.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use smol_str::SmolStr;
use tokio::{sync::mpsc, time::sleep};

use super::{Change, SourceEvent};
use crate::{
    api::{self, Diagnostic, Location, Object, Severity, yaml},
    system_error::explain,
};

/// How often the file is checked.
const CHECK: Duration = Duration::from_secs(1);

/// A file with MeshConfig that is not wrapped in a ConfigMap.
#[derive(Clone, Debug)]
pub(crate) struct MeshConfigFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The cluster that the settings belong to.
    pub cluster: SmolStr,
}

impl MeshConfigFile {
    /// Reads the file, and returns its settings and warnings.
    ///
    /// # Errors
    /// Returns the findings that say why the file cannot be used.
    pub(crate) fn read(&self) -> Result<(Arc<Object>, Vec<Diagnostic>), Vec<Diagnostic>> {
        let location = Location { file: self.path.to_string_lossy().into(), document: 0 };
        let broken = |message: String| vec![Diagnostic::error("", message).at(&location)];
        let text = fs::read_to_string(&self.path).map_err(|error| broken(format!("cannot be read: {}", explain(&error))))?;
        let mut parsed = api::Parsed::default();
        for document in yaml::documents(&text) {
            let value = yaml::document(document).map_err(|error| broken(error.to_string()))?;
            parsed = api::parse_mesh_config(&value, &self.cluster);
        }
        let (errors, warnings): (Vec<_>, Vec<_>) =
            parsed.diagnostics.into_iter().map(|found| found.at(&location)).partition(|found| found.severity == Severity::Error);
        match parsed.objects.into_iter().next() {
            Some(object) if errors.is_empty() => Ok((object, warnings)),
            None if errors.is_empty() => Err(broken("holds no MeshConfig".into())),
            _ => Err(errors),
        }
    }

    /// Follows the file until the receiver is dropped. For a version that cannot be used, only the findings are sent, and the
    /// last good settings stay.
    pub(crate) async fn follow(self, events: mpsc::Sender<SourceEvent>) {
        let mut last_read = None;
        while !events.is_closed() {
            let read = self.read();
            if last_read.as_ref() != Some(&read) {
                let (object, findings) = match read.clone() {
                    Ok((object, warnings)) => (Some(object), warnings),
                    Err(errors) => (None, errors),
                };
                let source = format!("file {}", self.path.display()).into();
                let changes = object.map(|object| SourceEvent::Changes(vec![Change::Applied(object)]));
                for event in changes.into_iter().chain([SourceEvent::Diagnostics { source, findings }]) {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                last_read = Some(read);
            }
            sleep(CHECK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Spec;

    fn file(text: &str) -> (tempfile::TempDir, MeshConfigFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        fs::write(&path, text).unwrap();
        (folder, MeshConfigFile { path, cluster: "Kubernetes".into() })
    }

    #[test]
    fn settings_are_read_over_the_defaults() {
        let (_folder, file) = file("trustDomain: example.org\n");
        let (object, _) = file.read().unwrap();
        let Spec::MeshConfig(mesh) = &object.spec else { panic!("{object:?}") };
        assert_eq!((mesh.trust_domain.as_str(), mesh.proxy_listen_port), ("example.org", 15001));
    }

    #[test]
    fn a_broken_file_is_named() {
        let (_folder, file) = file("trustDomain: [\n");
        let found = file.read().unwrap_err();
        assert!(found[0].to_string().contains("mesh.yaml"), "{found:?}");
    }

    #[tokio::test]
    async fn a_mistake_is_reported_and_the_last_good_settings_stay() {
        let (_folder, file) = file("trustDomain: a.example\n");
        let path = file.path.clone();
        let (events, mut inbox) = mpsc::channel(4);
        tokio::spawn(file.follow(events));
        let mut next = async || match tokio::time::timeout(Duration::from_secs(20), inbox.recv()).await.unwrap().unwrap() {
            SourceEvent::Changes(changes) => match &changes[0] {
                Change::Applied(object) => match &object.spec {
                    Spec::MeshConfig(mesh) => mesh.trust_domain.to_string(),
                    other => panic!("{other:?}"),
                },
                Change::Deleted(key) => panic!("{key}"),
            },
            SourceEvent::Diagnostics { findings, .. } => format!("{} findings", findings.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!([next().await, next().await], ["a.example", "0 findings"]);
        fs::write(&path, "trustDomain: [\n").unwrap();
        assert_eq!(next().await, "1 findings");
        fs::write(&path, "trustDomain: b.example\n").unwrap();
        assert_eq!([next().await, next().await], ["b.example", "0 findings"]);
    }
}

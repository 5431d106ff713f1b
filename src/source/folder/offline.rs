//! Reads files and folders once, for commands that work without a control plane.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    file::{read_file, read_text, unreadable},
    listing::{FolderListing, absolute, list},
    settings::Folder,
    state::FolderState,
};
use crate::{
    api::{Diagnostic, Location, Object},
    source::{Change, locations::ObjectLocations},
    system_error::explain,
};

/// What files and folders hold.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The objects in the order of their keys.
    pub objects: Vec<Arc<Object>>,
    /// What is wrong with the objects and with the files.
    pub findings: Vec<Diagnostic>,
    /// Where each object is written.
    pub locations: ObjectLocations,
}

/// Reads files and folders once. A path that does not exist, or a named file that cannot be read, is an error among the
/// findings. The objects are those of a cluster.
pub(crate) fn read_paths(paths: &[PathBuf], cluster: &str) -> Contents {
    let mut state = FolderState::default();
    let mut findings = Vec::new();
    for path in paths {
        let folder = Folder { cluster: cluster.into(), ..Folder::new(path) };
        if path.is_dir() {
            match list(path) {
                Ok(listing) => read_listing(&folder, listing, &mut state),
                Err(error) => findings.push(finding(path, format!("cannot be read: {}", explain(&error)))),
            }
        } else {
            let name = Arc::from(path.to_string_lossy());
            let content = match read_file(path, folder.size_limit) {
                Ok(text) => read_text(&name, &text, &folder.cluster),
                Err(error) => unreadable(&name, error),
            };
            state.set(&name, content);
        }
    }
    let objects = state.take_changes().into_iter().filter_map(|change| match change {
        Change::Applied(object) => Some(object),
        Change::Deleted(_) => None,
    });
    let objects = objects.collect();
    findings.extend(state.diagnostics());
    let mut locations = ObjectLocations::default();
    locations.note(state.take_moved());
    Contents { objects, findings, locations }
}

fn finding(path: &Path, message: String) -> Diagnostic {
    Diagnostic::error("", message).at(&Location { file: Arc::from(path.to_string_lossy()), document: 0 })
}

/// Reads the files of a folder under the names by which the user can find them: with the folder that was given.
fn read_listing(folder: &Folder, listing: FolderListing, state: &mut FolderState) {
    let named = |relative: &str| Arc::from(absolute(&folder.path, relative).to_string_lossy());
    for relative in listing.files.keys() {
        let name = named(relative);
        let content = match read_file(&absolute(&folder.path, relative), folder.size_limit) {
            Ok(text) => read_text(&name, &text, &folder.cluster),
            Err(error) => unreadable(&name, error),
        };
        state.set(&name, content);
    }
    for (relative, why) in listing.refused.into_iter().chain(listing.unreadable) {
        let name = named(&relative);
        state.set(&name, unreadable(&name, why));
    }
}

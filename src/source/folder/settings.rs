//! Which folder is read, and how.

use std::{path::PathBuf, time::Duration};

use smol_str::SmolStr;

/// The cluster that the objects of a folder belong to (rule 12 of the architecture).
pub(crate) const CLUSTER: &str = "Kubernetes";

/// A folder of YAML.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    /// The path of the folder. The folder may appear later, and while it is gone, or another is in its place, nothing is
    /// withdrawn.
    pub path: PathBuf,
    /// The cluster that its objects belong to.
    pub cluster: SmolStr,
    /// How often the folder is looked at without an event.
    pub rescan: Duration,
    /// The most bytes of a file. Larger files are refused.
    pub size_limit: u64,
}

impl Folder {
    /// Makes a folder with the usual settings: a rescan every 5 s, and files of up to 10 MiB.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cluster: CLUSTER.into(), rescan: Duration::from_secs(5), size_limit: 10 << 20 }
    }
}

//! Lists the files of a folder that are to be read.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use crate::system_error::explain;

/// Tells two contents of a file apart without reading it, as far as the clock of the file system allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The device and inode of a folder, which identify it whatever its name is.
pub(super) type FolderIdentity = (u64, u64);

/// What a folder holds. Paths are relative to it.
#[derive(Debug, Default)]
pub(super) struct FolderListing {
    /// The files to read.
    pub(super) files: BTreeMap<Arc<str>, Stamp>,
    /// The files that must not be read, and why.
    pub(super) refused: BTreeMap<Arc<str>, String>,
    /// The folders that cannot be read, and why. What was read of them before stays.
    pub(super) unreadable: BTreeMap<Arc<str>, String>,
}

/// The deepest nesting that is read. No folder of configuration is this deep, but a chain of links may be.
const DEEPEST: usize = 32;

/// Returns the identity of the folder at a path.
pub(super) fn identity(folder: &Path) -> io::Result<FolderIdentity> {
    let metadata = fs::metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "is not a folder"));
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// Lists a folder and its subfolders. Fails if the folder itself cannot be read.
pub(super) fn list(folder: &Path) -> io::Result<FolderListing> {
    let root = folder.canonicalize()?;
    let mut listing = FolderListing::default();
    listing.walk(&root, folder, "", 0)?;
    Ok(listing)
}

/// Returns whether files of this name are read: `*.yaml`, `*.yml`, `*.json`.
pub(super) fn has_read_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

impl Stamp {
    /// Returns the stamp of a regular file, and `None` for any other.
    pub(super) fn of(metadata: &fs::Metadata) -> Option<Self> {
        metadata.is_file().then(|| Self {
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns when the file last changed, in seconds and nanoseconds since 1970.
    pub(super) fn modified(&self) -> (i64, i64) {
        self.modified.max(self.changed)
    }
}

impl FolderListing {
    fn walk(&mut self, root: &Path, folder: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Hidden files belong to editors and to Kubernetes (`..data`), whose contents are reached by links.
            let file_name = entry.file_name();
            let Some(name) = visible(&file_name) else { continue };
            let relative: Arc<str> = if prefix.is_empty() { name.into() } else { format!("{prefix}/{name}").into() };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.descend(root, &entry.path(), &relative, depth),
                Ok(kind) if kind.is_symlink() => self.follow(root, &entry.path(), relative, depth),
                Ok(_) => self.add(&entry.path(), relative),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn descend(&mut self, root: &Path, folder: &Path, relative: &Arc<str>, depth: usize) {
        if depth == DEEPEST {
            self.refused.insert(Arc::clone(relative), format!("is nested more than {DEEPEST} folders deep: not read"));
            return;
        }
        match self.walk(root, folder, relative, depth + 1) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.unreadable.insert(Arc::clone(relative), format!("cannot be read: {}", explain(&error)));
            }
            // A folder that is gone by now has no files.
            _ => {}
        }
    }

    fn follow(&mut self, root: &Path, link: &Path, relative: Arc<str>, depth: usize) {
        let target = match link.canonicalize() {
            Ok(target) => target,
            Err(_) if !has_read_extension(link) => return,
            Err(error) => {
                self.refused.insert(relative, format!("is a link that leads nowhere: {}", explain(&error)));
                return;
            }
        };
        let Ok(inside) = target.strip_prefix(root) else {
            if target.is_dir() || has_read_extension(link) {
                self.refused.insert(relative, "is a link out of the folder: not read".to_owned());
            }
            return;
        };
        let reached_anyway = inside.components().all(|part| matches!(part, Component::Normal(name) if visible(name).is_some()));
        match target.is_dir() {
            true if reached_anyway => {}
            true => self.descend(root, link, &relative, depth),
            false if reached_anyway && has_read_extension(&target) => {}
            false => self.add(link, relative),
        }
    }

    fn add(&mut self, path: &Path, relative: Arc<str>) {
        if !has_read_extension(path) {
            return;
        }
        match fs::metadata(path).map(|metadata| Stamp::of(&metadata)) {
            Ok(Some(stamp)) => {
                self.files.insert(relative, stamp);
            }
            Ok(None) => {
                self.refused.insert(relative, "is not a regular file: not read".to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.refused.insert(relative, format!("cannot be read: {}", explain(&error)));
            }
        }
    }
}

fn visible(name: &OsStr) -> Option<&str> {
    name.to_str().filter(|name| !name.starts_with('.'))
}

/// Returns the path of a file relative to `folder`, as findings name it.
pub(super) fn relative(folder: &Path, path: &Path) -> Option<Arc<str>> {
    path.strip_prefix(folder).ok().and_then(Path::to_str).map(Arc::from)
}

/// Returns the path of a file on the disk.
pub(super) fn absolute(folder: &Path, relative: &str) -> PathBuf {
    folder.join(relative)
}

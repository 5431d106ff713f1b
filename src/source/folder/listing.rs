//! Which files of a folder are to be read.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Tells one content of a file from another without reading it, as far as the clock of the file system allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Device and inode: which folder this is, whatever its name.
pub(super) type Identity = (u64, u64);

/// What a folder holds. Paths are relative to it.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files to read.
    pub(super) files: BTreeMap<Arc<str>, Stamp>,
    /// What must not be read, and why.
    pub(super) refused: BTreeMap<Arc<str>, String>,
    /// Folders that cannot be looked into: what is known of them stays.
    pub(super) hidden_from_us: BTreeMap<Arc<str>, String>,
}

// No folder of configuration is this deep; a chain of links may be.
const DEEPEST: usize = 32;

/// Which folder stands at a path.
pub(super) fn identity(folder: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "is not a folder"));
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// Lists a folder and those below it. An error means that the folder itself cannot be read.
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let root = folder.canonicalize()?;
    let mut listing = Listing::default();
    listing.walk(&root, folder, "", 0)?;
    Ok(listing)
}

/// Whether a file has a name that is read: `*.yaml`, `*.yml`, `*.json`.
pub(super) fn is_read(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

impl Stamp {
    /// Reads a file's stamp, following links. `None`: not a regular file.
    pub(super) fn of(metadata: &fs::Metadata) -> Option<Self> {
        metadata.is_file().then(|| Self {
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Seconds and nanoseconds since 1970 at which the content last changed.
    pub(super) fn modified(&self) -> (i64, i64) {
        self.modified.max(self.changed)
    }
}

impl Listing {
    fn walk(&mut self, root: &Path, folder: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Hidden names are editors' and Kubernetes' business (`..data`): what they hold is reached by links.
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
                self.hidden_from_us.insert(Arc::clone(relative), format!("cannot be read: {error}"));
            }
            // Gone while we looked: so are its files.
            _ => {}
        }
    }

    fn follow(&mut self, root: &Path, link: &Path, relative: Arc<str>, depth: usize) {
        let target = match link.canonicalize() {
            Ok(target) => target,
            Err(_) if !is_read(link) => return,
            Err(error) => {
                self.refused.insert(relative, format!("is a link that leads nowhere: {error}"));
                return;
            }
        };
        let Ok(inside) = target.strip_prefix(root) else {
            if target.is_dir() || is_read(link) {
                self.refused.insert(relative, "is a link out of the folder: not read".to_owned());
            }
            return;
        };
        let reached_anyway = inside.components().all(|part| matches!(part, Component::Normal(name) if visible(name).is_some()));
        match target.is_dir() {
            true if reached_anyway => {}
            true => self.descend(root, link, &relative, depth),
            false if reached_anyway && is_read(&target) => {}
            false => self.add(link, relative),
        }
    }

    fn add(&mut self, path: &Path, relative: Arc<str>) {
        if !is_read(path) {
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
                self.refused.insert(relative, format!("cannot be read: {error}"));
            }
        }
    }
}

fn visible(name: &OsStr) -> Option<&str> {
    name.to_str().filter(|name| !name.starts_with('.'))
}

/// The path of a file below `folder`, as findings name it.
pub(super) fn relative(folder: &Path, path: &Path) -> Option<Arc<str>> {
    path.strip_prefix(folder).ok().and_then(Path::to_str).map(Arc::from)
}

/// The place of a file on the disk.
pub(super) fn absolute(folder: &Path, relative: &str) -> PathBuf {
    folder.join(relative)
}

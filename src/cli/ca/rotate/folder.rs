//! The folder of a CA, with what stands beside it during a rotation.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::Path,
};

use anyhow::anyhow;

use crate::{cli::ca::files, identity::rotation::Entries, system_error::explain};

/// The largest file that is read; keys and certificates are smaller.
const LARGEST: u64 = 1 << 20;
/// The keys of a CA in use, in either form of its folder.
const KEYS: [&str; 2] = ["ca-key.pem", "tls.key"];

/// Reads the files of a folder.
pub(super) fn read(folder: &Path) -> anyhow::Result<Entries> {
    let mut entries = Entries::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
        let path = entry.map_err(|error| failed(folder, &error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else { continue };
        let metadata = fs::metadata(&path).map_err(|error| failed(&path, &error))?;
        if metadata.is_file() && metadata.len() <= LARGEST {
            entries.insert(name.to_owned(), fs::read(&path).map_err(|error| failed(&path, &error))?);
        }
    }
    Ok(entries)
}

/// Writes what differs, file by file, so that a running control plane finds a CA that it can use, or one that it refuses, at any time;
/// then removes what is gone.
pub(super) fn write(folder: &Path, before: &Entries, after: &Entries) -> anyhow::Result<()> {
    let mut changed: Vec<_> = after.iter().filter(|(name, contents)| before.get(*name) != Some(contents)).collect();
    changed.sort_by_key(|(name, _)| rank(name));
    let key = KEYS.iter().find_map(|key| fs::metadata(folder.join(key)).ok());
    for (name, contents) in changed {
        let path = folder.join(name);
        let secret = name.contains("key");
        files::write_one(folder, name, contents, secret).map_err(|error| failed(&path, &error))?;
        if let Some(like) = key.as_ref().filter(|_| secret) {
            give(&path, like).map_err(|error| failed(&path, &error))?;
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        fs::remove_file(folder.join(name)).map_err(|error| failed(&folder.join(name), &error))?;
    }
    Ok(())
}

/// Lets whoever may read the key in use read the next one.
fn give(path: &Path, like: &fs::Metadata) -> io::Result<()> {
    let file = fs::File::open(path)?;
    fchown(&file, Some(like.uid()), Some(like.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o777))
}

/// Returns the place of a file in the order of writing: what stands beside the CA before the CA itself.
fn rank(name: &str) -> usize {
    let in_use = ["cert-chain.pem", "ca-key.pem", "ca-cert.pem", "tls.key", "tls.crt", "root-cert.pem", "ca.crt"];
    in_use.iter().position(|known| *known == name).map_or(0, |place| place + 1)
}

fn failed(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("{}: {}", path.display(), explain(error))
}

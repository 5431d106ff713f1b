//! Finding the private key of a root where it must not be: on the machine of a running control plane.

use std::{fs, path::Path};

use super::LoadError;
use crate::identity::{
    certificate::{Certificate, pem_blocks},
    key::{self, PrivateKey},
};

/// The largest file that is searched; keys and certificates are smaller.
const LARGEST_FILE: u64 = 1 << 20;

/// Returns every file in the folder, and in folders below it, that is, or may be, the private key of a root.
pub fn find_root_keys(folder: &Path, roots: &[Certificate]) -> Result<Vec<LoadError>, LoadError> {
    let mut found = Vec::new();
    search_root_keys(folder, roots, 0, &mut found)?;
    Ok(found)
}

fn search_root_keys(folder: &Path, roots: &[Certificate], depth: usize, found: &mut Vec<LoadError>) -> Result<(), LoadError> {
    let failed = |error| LoadError::Io { path: folder.to_path_buf(), error };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A link to nowhere, or a file that was removed meanwhile, holds no key.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < 3 {
            search_root_keys(&path, roots, depth + 1, found)?;
        } else if metadata.is_file() && metadata.len() <= LARGEST_FILE {
            let contents = fs::read(&path).map_err(|error| LoadError::Io { path: path.clone(), error })?;
            if let Some(why) = root_key_in(&path, &contents, roots) {
                found.push(LoadError::RootKey { path, why });
            }
        }
    }
    Ok(())
}

/// Returns why a file is, or may be, the private key of one of `roots`; `None` if it is not.
pub(super) fn root_key_in(path: &Path, contents: &[u8], roots: &[Certificate]) -> Option<&'static str> {
    if path.file_name().is_some_and(|name| name == "root-key.pem") {
        return Some("a root key by its name");
    }
    let is_roots = |key: &PrivateKey| roots.iter().any(|root| root.public_key == key.public_key());
    // One block that is broken hides no other.
    let blocks: Vec<_> = pem_blocks(&String::from_utf8_lossy(contents)).flatten().collect();
    let keys: Vec<_> = blocks.iter().filter(|block| block.tag().ends_with("PRIVATE KEY")).collect();
    if keys.iter().any(|block| key::is_encrypted(block)) {
        return Some("an encrypted private key, which may be the root's");
    }
    let mut readable = keys.iter().map(|block| block.contents()).chain(blocks.is_empty().then_some(contents));
    let found = readable.any(|der| PrivateKey::from_der(der).is_ok_and(|key| is_roots(&key)));
    found.then_some("the private key of a root certificate")
}

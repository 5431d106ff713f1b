//! The folder for sockets and the bootstrap.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use tokio::net::UnixListener;

use super::{bootstrap::bootstrap, settings::Settings};
use crate::system_error::explain;

/// The longest path of a Unix socket (`sockaddr_un`, without the terminating zero).
const LONGEST_SOCKET_PATH: usize = 107;

/// The name of our own folder below one that belongs to somebody else.
const SUBFOLDER: &str = "agent";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {}; --work-dir names another folder", explain(error))]
pub(crate) struct Error {
    path: String,
    error: io::Error,
}

/// The sockets that Envoy connects to.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// ADS.
    pub xds: UnixListener,
    /// Secrets; whoever connects gets the workload's key.
    pub sds: UnixListener,
}

/// Returns the folder itself, or one below it if it belongs to somebody else: a volume that the kubelet made belongs to root and is
/// open to all.
pub(crate) fn private(wanted: &Path) -> PathBuf {
    match fs::symlink_metadata(wanted) {
        Ok(found) if found.is_dir() && found.uid() != geteuid().as_raw() => wanted.join(SUBFOLDER),
        _ => wanted.to_owned(),
    }
}

/// Makes the folder for its owner only, writes the bootstrap, and opens the sockets.
pub(crate) fn prepare(settings: &Settings) -> Result<Sockets, Error> {
    make_private(&settings.work_dir).map_err(at(&settings.work_dir))?;
    let sockets = Sockets { xds: listen(&settings.xds_socket())?, sds: listen(&settings.sds_socket())? };
    let path = settings.bootstrap_file();
    fs::write(&path, format!("{:#}\n", bootstrap(settings))).map_err(at(&path))?;
    Ok(sockets)
}

/// Removes sockets and bootstrap; what cannot be removed stays.
pub(crate) fn clear(settings: &Settings) {
    for path in [settings.xds_socket(), settings.sds_socket(), settings.bootstrap_file()] {
        let _ = fs::remove_file(path);
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // A folder of that name that somebody else made in a shared place would show them the workload's key.
    if fs::symlink_metadata(path)?.uid() != geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user"));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn listen(path: &Path) -> Result<UnixListener, Error> {
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        let reason = format!("a socket's path may have {LONGEST_SOCKET_PATH} bytes at most; choose a shorter work folder");
        return Err(at(path)(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::settings::tests::settings;

    #[tokio::test]
    async fn the_folder_is_its_owners_alone_and_can_be_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings();
        settings.work_dir = folder.path().join("a/b");
        for _ in 0..2 {
            let sockets = prepare(&settings).unwrap();
            assert_eq!(fs::metadata(&settings.work_dir).unwrap().permissions().mode() & 0o777, 0o700);
            assert!(settings.bootstrap_file().is_file() && settings.sds_socket().exists());
            drop(sockets);
        }
        clear(&settings);
        assert_eq!(fs::read_dir(&settings.work_dir).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_of_somebody_else_gets_one_of_our_own() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(private(folder.path()), folder.path());
        assert_eq!(private(&folder.path().join("new")), folder.path().join("new"));
        if !geteuid().is_root() {
            assert_eq!(private(Path::new("/")), Path::new("/agent"));
        }
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings();
        settings.work_dir = folder.path().join("x".repeat(100));
        assert!(prepare(&settings).unwrap_err().to_string().contains("shorter work folder"));
    }
}

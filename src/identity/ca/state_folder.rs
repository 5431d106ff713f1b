//! A self-signed root kept in a folder of its own, for a control plane that nobody gave a CA: for first steps, not for production.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{CaHandle, LoadError, SelfSigned, SelfSignedError, SigningCa, load_self_signed};
use crate::{
    identity::{Clock, metrics::CaMetrics},
    system_error::explain,
};

/// The folder of the root, within that of all state.
const FOLDER: &str = "ca";
const KEY: &str = "ca-key.pem";
/// How often it is checked whether the root is to be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

/// A root that is made if it is missing, and renewed before it expires.
#[derive(Clone, Debug)]
pub struct StateFolder {
    folder: PathBuf,
    self_signed: SelfSigned,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or a file in it cannot be read or written.
    #[error("{}: {}; --state-dir names the folder of the self-signed root, --ca-dir that of a CA", path.display(), explain(error))]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The files hold no root that can sign.
    #[error("{error}; remove the folder {} to have a new root made, which no proxy knows yet", folder.display())]
    Load {
        /// The folder of the root.
        folder: PathBuf,
        /// What is wrong with it.
        error: LoadError,
    },
    /// No root can be made or renewed.
    #[error("{}: {error}", folder.display())]
    Make {
        /// The folder of the root.
        folder: PathBuf,
        /// Why.
        error: SelfSignedError,
    },
}

type Entries = BTreeMap<String, Vec<u8>>;

// === impl StateFolder ===

impl StateFolder {
    /// Returns the root in the folder of all state.
    pub fn new(state: &Path, self_signed: SelfSigned) -> Self {
        Self { folder: state.join(FOLDER), self_signed }
    }

    /// Loads the root, after making it if there is none.
    ///
    /// # Errors
    /// When it cannot be made or kept. One that is there and cannot be used is never replaced, because proxies trust it.
    pub fn load(&self, now: Timestamp) -> Result<SigningCa, StateError> {
        let made = !self.folder.exists();
        if made {
            let entries = self.self_signed.generate(now).map_err(|error| self.failed(error))?;
            self.keep_new(&entries)?;
        }
        let (_, ca) = self.renewed(now)?;
        let folder = self.folder.display();
        let what = if made { "made a self-signed root" } else { "signing with the self-signed root" };
        info!(
            %folder, not_after = %ca.not_after(),
            "{what}; whoever reads ca-key.pem there can be any workload. For production, keep a root offline and give --ca-dir an \
             intermediate of it (`istiod-lite ca root`, `istiod-lite ca intermediate`)"
        );
        if readable_by_others(&self.folder.join(KEY)) {
            warn!(%folder, "others than the owner may read or write ca-key.pem; take that away with chmod 600");
        }
        Ok(ca)
    }

    /// Renews the root before it expires, until `shutdown`.
    pub async fn keep(self, handle: Arc<CaHandle>, clock: Clock, metrics: CaMetrics, shutdown: CancellationToken) {
        loop {
            let ca = handle.current();
            ca.record(&metrics);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RENEWAL_CHECK) => {}
            }
            match self.renewed(clock()) {
                Ok((true, ca)) => match handle.offer(ca) {
                    Ok(_) => info!(folder = %self.folder.display(), "renewed the self-signed root under its own key and name"),
                    Err(error) => error!(folder = %self.folder.display(), %error, "the renewed root is refused"),
                },
                Ok((false, _)) => {}
                Err(error) => error!(%error, "the self-signed root cannot be renewed; signing goes on with the one in use"),
            }
        }
    }

    /// Returns the root, after renewing it if that is due, and whether it was.
    fn renewed(&self, now: Timestamp) -> Result<(bool, SigningCa), StateError> {
        let mut entries = self.entries()?;
        let renewed = self.self_signed.renew(&entries, now).map_err(|error| self.failed(error))?;
        let due = renewed.is_some();
        if let Some(renewed) = renewed {
            let certificates = renewed.iter().filter(|(name, _)| *name != KEY);
            certificates.into_iter().try_for_each(|(name, contents)| self.replace(name, contents))?;
            entries = renewed;
        }
        let loaded = load_self_signed(&self.folder.display().to_string(), &entries, now);
        loaded.map(|ca| (due, ca)).map_err(|error| StateError::Load { folder: self.folder.clone(), error })
    }

    fn entries(&self) -> Result<Entries, StateError> {
        let mut entries = Entries::new();
        for entry in fs::read_dir(&self.folder).map_err(at(&self.folder))? {
            let path = entry.map_err(at(&self.folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".pem")).map(str::to_owned);
            if let Some(name) = name {
                entries.insert(name, fs::read(&path).map_err(at(&path))?);
            }
        }
        Ok(entries)
    }

    /// Writes the files beside the folder and renames them as a whole. If somebody else was faster, theirs stay.
    fn keep_new(&self, entries: &Entries) -> Result<(), StateError> {
        let new = self.folder.with_extension(format!("new-{}", std::process::id()));
        DirBuilder::new().recursive(true).mode(0o700).create(&new).map_err(at(&new))?;
        for (name, contents) in entries {
            write(&new.join(name), contents)?;
        }
        match fs::rename(&new, &self.folder) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                fs::remove_dir_all(&new).map_err(at(&new))
            }
            Err(error) => Err(at(&self.folder)(error)),
        }
    }

    fn replace(&self, name: &str, contents: &[u8]) -> Result<(), StateError> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!(".{name}.new")));
        let _ = fs::remove_file(&new);
        write(&new, contents)?;
        fs::rename(&new, &path).map_err(at(&path))
    }

    fn failed(&self, error: SelfSignedError) -> StateError {
        StateError::Make { folder: self.folder.clone(), error }
    }
}

fn write(path: &Path, contents: &[u8]) -> Result<(), StateError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at(path))?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(at(path))
}

fn readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    |error| StateError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn folder(state: &Path) -> StateFolder {
        StateFolder::new(state, SelfSigned::new("example.org"))
    }

    #[test]
    fn the_root_is_made_once_and_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("a/state");
        let made = folder(&state).load(now()).unwrap();
        assert_eq!(made.root().subject, "O=example.org");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("ca")), mode(&state.join("ca/ca-key.pem"))), (0o700, 0o700, 0o600));
        assert_eq!(folder(&state).load(now()).unwrap().root(), made.root(), "the same after a restart");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn of_two_that_make_a_root_at_once_one_wins() {
        let home = tempfile::tempdir().unwrap();
        let first = folder(home.path()).load(now()).unwrap();
        let late = folder(home.path());
        late.keep_new(&late.self_signed.generate(now()).unwrap()).unwrap();
        assert_eq!(late.load(now()).unwrap().root(), first.root());
    }

    #[test]
    fn it_is_renewed_under_its_own_key() {
        let home = tempfile::tempdir().unwrap();
        let state = folder(home.path());
        let first = state.load(now()).unwrap();
        let late = now() + SignedDuration::from_hours(24 * 3000);
        assert!(state.renewed(late).unwrap().0, "due");
        let second = state.load(late).unwrap();
        assert!(second.not_after() > first.not_after() && second.root().public_key == first.root().public_key);
    }

    #[test]
    fn a_broken_root_is_told_and_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        folder(home.path()).load(now()).unwrap();
        fs::write(home.path().join("ca/ca-key.pem"), "").unwrap();
        let refused = folder(home.path()).load(now()).unwrap_err().to_string();
        assert!(refused.contains("ca-key.pem") && refused.contains("remove the folder"), "{refused}");
        let nowhere = StateFolder::new(Path::new("/proc/none"), SelfSigned::new("a")).load(now()).unwrap_err().to_string();
        assert!(nowhere.contains("--state-dir") && !nowhere.contains("os error"), "{nowhere}");
    }
}

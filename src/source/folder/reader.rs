//! Looks at a folder when asked, and says what changed since the last look.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use xxhash_rust::xxh3::xxh3_128;

use super::{
    file::{FileContent, read_file, read_text, unreadable},
    listing::{FolderIdentity, FolderListing, Stamp, absolute, identity, list},
    settings::Folder,
    state::FolderState,
};
use crate::{
    api::{Diagnostic, Location, ObjectKey},
    source::Change,
    system_error::explain,
};

/// File systems stamp files by a clock with ticks of up to 10 ms. A file younger than this may change once more without a
/// new stamp.
const CLOCK_TICK: Duration = Duration::from_millis(20);
/// A file that became empty was perhaps truncated to be rewritten, so it is not taken as empty before this time.
const EMPTY_IS_BELIEVED_AFTER: Duration = Duration::from_millis(250);

/// Reads a folder again and again.
pub(super) struct FolderReader {
    pub(super) folder: Folder,
    /// The folder that was first found at the path.
    identity: Option<FolderIdentity>,
    files: BTreeMap<Arc<str>, ReadFile>,
    state: FolderState,
    /// The findings that were returned last.
    diagnostics: Vec<Diagnostic>,
}

/// A file as it was last read.
struct ReadFile {
    /// `None` if the file is to be read again whatever its stamp, as the clock cannot tell this content from the next.
    stamp: Option<Stamp>,
    /// Hash of the content.
    content: u128,
}

/// What one look at a folder found.
#[derive(Debug, Default)]
pub(super) struct FolderChanges {
    /// The objects that changed.
    pub(super) changes: Vec<Change>,
    /// The objects that are written elsewhere now.
    pub(super) moved: Vec<(ObjectKey, Option<Location>)>,
    /// All findings, if they changed.
    pub(super) diagnostics: Option<Vec<Diagnostic>>,
    /// Whether some file is to be looked at again soon.
    pub(super) unsettled: bool,
}

/// What the watcher knows about files, by their paths relative to the folder.
#[derive(Debug, Default)]
pub(super) struct WatchHints {
    /// Files to read even if their stamps are the same.
    pub(super) changed: BTreeSet<Arc<str>>,
    /// Files that somebody is writing.
    pub(super) open: BTreeSet<Arc<str>>,
    /// Whether events were lost, so that no stamp can be trusted.
    pub(super) all: bool,
}

impl FolderReader {
    /// Makes a reader that has not looked yet.
    pub(super) fn new(folder: Folder) -> Self {
        Self { folder, identity: None, files: BTreeMap::new(), state: FolderState::default(), diagnostics: Vec::new() }
    }

    /// Looks at the folder and returns what changed. If the folder cannot be trusted now, nothing changes and the error says
    /// why.
    pub(super) fn look(&mut self, hints: &WatchHints) -> Result<FolderChanges, String> {
        self.check_identity()?;
        let listing = list(&self.folder.path).map_err(|error| format!("cannot be read: {}", explain(&error)))?;
        // If the folder was moved away in between, the listing is incomplete.
        self.check_identity()?;

        let mut found = FolderChanges::default();
        self.forget_missing(&listing);
        for (path, stamp) in &listing.files {
            self.visit(path, *stamp, hints, &mut found);
        }
        for (path, why) in listing.refused.iter().chain(&listing.unreadable) {
            self.files.remove(path);
            self.state.set(path, unreadable(path, why.clone()));
        }
        found.changes = self.state.take_changes();
        found.moved = self.state.take_moved();
        let diagnostics = self.state.diagnostics();
        if diagnostics != self.diagnostics {
            self.diagnostics.clone_from(&diagnostics);
            found.diagnostics = Some(diagnostics);
        }
        Ok(found)
    }

    fn check_identity(&mut self) -> Result<(), String> {
        let found = identity(&self.folder.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "is not there".to_owned(),
            _ => format!("cannot be read: {}", explain(&error)),
        })?;
        match *self.identity.get_or_insert(found) {
            first if first == found => Ok(()),
            _ => Err("is another folder than the one that was read: restart to take it, or put the first one back".to_owned()),
        }
    }

    /// Forgets all files that are gone, including those that only a finding names.
    fn forget_missing(&mut self, listing: &FolderListing) {
        let below_unreadable = |path: &str| {
            listing.unreadable.keys().any(|folder| path.strip_prefix(folder.as_ref()).is_some_and(|rest| rest.starts_with('/')))
        };
        let gone: Vec<_> = self
            .state
            .paths()
            .filter(|path| !listing.files.contains_key(*path) && !listing.refused.contains_key(*path))
            .filter(|path| !listing.unreadable.contains_key(*path) && !below_unreadable(path))
            .cloned()
            .collect();
        for path in gone {
            self.state.remove(&path);
            self.files.remove(&path);
        }
    }

    /// Reads one file again if it may have changed.
    fn visit(&mut self, path: &Arc<str>, stamp: Stamp, hints: &WatchHints, found: &mut FolderChanges) {
        let known = self.files.get(path);
        let same = known.is_some_and(|known| known.stamp == Some(stamp));
        if same && !hints.all && !hints.changed.contains(path) {
            return;
        }
        if hints.open.contains(path) {
            found.unsettled = true;
            return;
        }
        let age = age(&stamp);
        // Too young, and the watcher has not reported yet whether its writer is done. It will soon.
        if known.is_some() && age < CLOCK_TICK && !hints.all && !hints.changed.contains(path) {
            found.unsettled = true;
            return;
        }
        let read = read_file(&absolute(&self.folder.path, path), self.folder.size_limit);
        let hash = match &read {
            Ok(text) => xxh3_128(text.as_bytes()),
            Err(why) => xxh3_128(why.as_bytes()),
        };
        let content = match read {
            _ if known.is_some_and(|known| known.content == hash) => None,
            Ok(text) => Some(read_text(path, &text, &self.folder.cluster)),
            Err(why) => Some(unreadable(path, why)),
        };
        if known.is_some() && age < EMPTY_IS_BELIEVED_AFTER && content.as_ref().is_some_and(FileContent::is_empty) {
            found.unsettled = true;
            return;
        }
        if let Some(content) = content {
            self.state.set(path, content);
        }
        found.unsettled |= age < CLOCK_TICK;
        self.files.insert(Arc::clone(path), ReadFile { stamp: (age >= CLOCK_TICK).then_some(stamp), content: hash });
    }
}

/// Returns the age of a stamp. One from the near future counts as new, but one from further ahead as old: after a jump of the
/// clock the file would otherwise be read for ever.
fn age(stamp: &Stamp) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanoseconds) = stamp.modified();
    let then = Duration::new(seconds.max(0).unsigned_abs(), nanoseconds.clamp(0, 999_999_999) as u32);
    match now.checked_sub(then) {
        Some(age) => age,
        None if then - now < Duration::from_secs(1) => Duration::ZERO,
        None => Duration::MAX,
    }
}

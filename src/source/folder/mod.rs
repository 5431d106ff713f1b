//! A folder of YAML as a source: read once, then followed.
//!
//! inotify says when to look; what to do follows from looking (stamps and contents), so that a lost or doubled event
//! harms nothing. A slow rescan is the safety net. A file that somebody holds open for writing is left alone until it is
//! closed, for a moment at most.

mod file;
mod listing;
mod state;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smol_str::SmolStr;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_128;

use self::{
    file::{FileContent, read_text, unreadable},
    listing::{Identity, Listing, Stamp, absolute, identity, is_read, list},
    state::State,
};
use super::{Change, Event, places::Places};
use crate::api::{Diagnostic, Location, Object, ObjectKey};

/// The cluster that a folder's objects belong to (rule 12 of the architecture).
pub const CLUSTER: &str = "Kubernetes";

/// A folder to follow.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder. It may appear later, and while it is gone or another stands in its place nothing is withdrawn.
    pub path: PathBuf,
    /// The cluster that its objects belong to.
    pub cluster: SmolStr,
    /// How often it is looked at without an event.
    pub rescan: Duration,
    /// Bytes above which a file is refused.
    pub size_limit: u64,
}

impl Folder {
    /// A folder with the usual settings: rescan every 5 s, files of up to 10 MiB.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cluster: CLUSTER.into(), rescan: Duration::from_secs(5), size_limit: 10 << 20 }
    }

    /// Follows the folder on a thread of its own until the receiver is dropped. First come all objects and `Synced`
    /// (or `Lost`, when there is no such folder), then what changes.
    pub fn watch(self) -> io::Result<mpsc::Receiver<Event>> {
        watch::start(self)
    }
}

/// What files and folders hold.
#[derive(Debug, Default)]
pub struct Contents {
    /// The objects, in the order of their keys.
    pub objects: Vec<Arc<Object>>,
    /// What is wrong with them and with the files.
    pub findings: Vec<Diagnostic>,
    /// Where each object is written.
    pub places: Places,
}

/// Reads files and folders once, for offline use. A path that does not exist, or a file given by name that cannot be
/// read, is an error among the findings.
pub fn read_paths(paths: &[PathBuf]) -> Contents {
    let mut state = State::default();
    let mut findings = Vec::new();
    for path in paths {
        let folder = Folder::new(path);
        if path.is_dir() {
            match list(path) {
                Ok(listing) => read_listing(&folder, listing, &mut state),
                Err(error) => findings.push(whole(path, format!("cannot be read: {error}"))),
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
    let objects = state.changes().into_iter().filter_map(|change| match change {
        Change::Applied(object) => Some(object),
        Change::Deleted(_) => None,
    });
    let objects = objects.collect();
    findings.extend(state.diagnostics());
    let mut places = Places::default();
    places.note(state.moved());
    Contents { objects, findings, places }
}

fn whole(path: &Path, message: String) -> Diagnostic {
    Diagnostic::error("", message).at(&Location { file: Arc::from(path.to_string_lossy()), document: 0 })
}

// Offline a file is named as the user can find it: with the folder that was given.
fn read_listing(folder: &Folder, listing: Listing, state: &mut State) {
    let named = |relative: &str| Arc::from(absolute(&folder.path, relative).to_string_lossy());
    for relative in listing.files.keys() {
        let name = named(relative);
        let content = match read_file(&absolute(&folder.path, relative), folder.size_limit) {
            Ok(text) => read_text(&name, &text, &folder.cluster),
            Err(error) => unreadable(&name, error),
        };
        state.set(&name, content);
    }
    for (relative, why) in listing.refused.into_iter().chain(listing.hidden_from_us) {
        let name = named(&relative);
        state.set(&name, unreadable(&name, why));
    }
}

/// A file's text, or why not.
fn read_file(path: &Path, size_limit: u64) -> Result<String, String> {
    let read = || -> io::Result<Result<Vec<u8>, u64>> {
        // A pipe would keep us waiting, a device for ever.
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        if metadata.len() > size_limit {
            return Ok(Err(metadata.len()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        fs::File::open(path)?.take(size_limit + 1).read_to_end(&mut bytes)?;
        let size = bytes.len() as u64;
        Ok(if size > size_limit { Err(size) } else { Ok(bytes) })
    };
    match read() {
        Ok(Ok(bytes)) => {
            String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 text at byte {}", error.utf8_error().valid_up_to()))
        }
        Ok(Err(size)) => Err(format!("has {size} bytes, more than the {size_limit} that are read")),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Follows a folder's contents: looks when asked, says what changed.
struct Reader {
    folder: Folder,
    // The folder as it was first seen.
    identity: Option<Identity>,
    known: BTreeMap<Arc<str>, Known>,
    state: State,
    told: Vec<Diagnostic>,
}

/// What was seen of a file last.
struct Known {
    // `None`: read again whatever the stamp says, since the clock cannot tell this content from the next.
    stamp: Option<Stamp>,
    content: u128,
}

/// What looking brought.
#[derive(Debug, Default)]
struct Seen {
    changes: Vec<Change>,
    moved: Vec<(ObjectKey, Option<Location>)>,
    // All findings, when they are not those told before.
    diagnostics: Option<Vec<Diagnostic>>,
    // Some file was left for later.
    again: bool,
}

/// Files on which the watcher has something to say, relative to the folder.
#[derive(Debug, Default)]
struct Hints {
    // Read these even when their stamps look the same.
    changed: BTreeSet<Arc<str>>,
    // Somebody is writing them.
    open: BTreeSet<Arc<str>>,
    // Events were lost: trust no stamp.
    all: bool,
}

// File systems stamp by a clock of up to 10 ms; what is younger may change once more and keep its stamp.
const CLOCK_TICK: Duration = Duration::from_millis(20);
// A file that has just lost all it said was perhaps truncated to be written anew.
const EMPTY_IS_BELIEVED_AFTER: Duration = Duration::from_millis(250);

impl Reader {
    fn new(folder: Folder) -> Self {
        Self { folder, identity: None, known: BTreeMap::new(), state: State::default(), told: Vec::new() }
    }

    /// Looks at the folder. An error says why it cannot be trusted now; then nothing changes.
    fn look(&mut self, hints: &Hints) -> Result<Seen, String> {
        self.check_identity()?;
        let listing = list(&self.folder.path).map_err(|error| format!("cannot be read: {error}"))?;
        // Had it been moved away in between, the listing would be of nothing.
        self.check_identity()?;

        let mut seen = Seen::default();
        self.forget_missing(&listing);
        for (path, stamp) in &listing.files {
            self.visit(path, *stamp, hints, &mut seen);
        }
        for (path, why) in listing.refused.iter().chain(&listing.hidden_from_us) {
            self.known.remove(path);
            self.state.set(path, unreadable(path, why.clone()));
        }
        seen.changes = self.state.changes();
        seen.moved = self.state.moved();
        let diagnostics = self.state.diagnostics();
        if diagnostics != self.told {
            self.told.clone_from(&diagnostics);
            seen.diagnostics = Some(diagnostics);
        }
        Ok(seen)
    }

    fn check_identity(&mut self) -> Result<(), String> {
        let found = identity(&self.folder.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "is not there".to_owned(),
            _ => format!("cannot be read: {error}"),
        })?;
        match *self.identity.get_or_insert(found) {
            first if first == found => Ok(()),
            _ => Err("is another folder than the one that was read: restart to take it, or put the first one back".to_owned()),
        }
    }

    // Also files that were named in a finding only.
    fn forget_missing(&mut self, listing: &Listing) {
        let below_hidden = |path: &str| {
            listing.hidden_from_us.keys().any(|folder| path.strip_prefix(folder.as_ref()).is_some_and(|rest| rest.starts_with('/')))
        };
        let gone: Vec<_> = self
            .state
            .paths()
            .filter(|path| !listing.files.contains_key(*path) && !listing.refused.contains_key(*path))
            .filter(|path| !listing.hidden_from_us.contains_key(*path) && !below_hidden(path))
            .cloned()
            .collect();
        for path in gone {
            self.state.remove(&path);
            self.known.remove(&path);
        }
    }

    fn visit(&mut self, path: &Arc<str>, stamp: Stamp, hints: &Hints, seen: &mut Seen) {
        let known = self.known.get(path);
        let same = known.is_some_and(|known| known.stamp == Some(stamp));
        if same && !hints.all && !hints.changed.contains(path) {
            return;
        }
        if hints.open.contains(path) {
            seen.again = true;
            return;
        }
        let age = age(&stamp);
        // Too fresh, and the watcher has not said yet whether its writer is done: it will in a moment.
        if known.is_some() && age < CLOCK_TICK && !hints.all && !hints.changed.contains(path) {
            seen.again = true;
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
        if known.is_some() && age < EMPTY_IS_BELIEVED_AFTER && content.as_ref().is_some_and(FileContent::says_nothing) {
            seen.again = true;
            return;
        }
        if let Some(content) = content {
            self.state.set(path, content);
        }
        seen.again |= age < CLOCK_TICK;
        self.known.insert(Arc::clone(path), Known { stamp: (age >= CLOCK_TICK).then_some(stamp), content: hash });
    }
}

// A stamp from the future is as good as a fresh one only for a moment; a clock that jumped must not keep us reading.
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

#[cfg(test)]
mod tests;

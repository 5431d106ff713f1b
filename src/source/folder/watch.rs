//! Follows a folder on a thread of its own: waits for events of the file system, looks at the folder, and sends what changed.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::mpsc;

use super::{
    listing::{has_read_extension, relative},
    reader::{FolderChanges, FolderReader, WatchHints},
    settings::Folder,
};
use crate::source::{Loss, SourceEvent};

/// How long events are gathered after the first one: those of one save come close together.
const GATHER: Duration = Duration::from_millis(5);
/// How long to wait if a file is to be looked at again.
const UNSETTLED: Duration = Duration::from_millis(25);
/// How long to wait while the folder is lost.
const LOST: Duration = Duration::from_millis(200);
/// How long to wait for a writer that has a file open and does not write.
const WRITER_PATIENCE: Duration = Duration::from_millis(500);

impl Folder {
    /// Follows the folder until the receiver is dropped, which the thread notices within a second. First come all objects
    /// and [`SourceEvent::Synced`], or [`SourceEvent::Lost`] if there is no such folder; then come changes.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn watch(self) -> io::Result<mpsc::Receiver<SourceEvent>> {
        let (events, receiver) = mpsc::channel(64);
        thread::Builder::new().name("folder".to_owned()).spawn(move || {
            // The thread ends without an error when nobody receives its events any more.
            let _ = FolderWatcher::new(self, events).run();
        })?;
        Ok(receiver)
    }
}

struct FolderWatcher {
    reader: FolderReader,
    events: mpsc::Sender<SourceEvent>,
    notices: Receiver<notify::Result<notify::Event>>,
    notifier: Sender<notify::Result<notify::Event>>,
    watcher: Option<RecommendedWatcher>,
    hints: WatchHints,
    /// The files that somebody is writing, and when they were last written.
    writers: BTreeMap<Arc<str>, Instant>,
    /// The folder as the events name it.
    root: PathBuf,
    synced: bool,
    lost: bool,
    /// Why the folder cannot be watched, as it was said last.
    unwatched: Option<String>,
}

/// Nobody receives the events any more.
struct ReceiverDropped;

impl FolderWatcher {
    fn new(folder: Folder, events: mpsc::Sender<SourceEvent>) -> Self {
        let (notifier, notices) = channel();
        Self {
            root: folder.path.clone(),
            reader: FolderReader::new(folder),
            events,
            notices,
            notifier,
            watcher: None,
            hints: WatchHints::default(),
            writers: BTreeMap::new(),
            synced: false,
            lost: false,
            unwatched: None,
        }
    }

    fn run(mut self) -> Result<(), ReceiverDropped> {
        loop {
            if self.watcher.is_none() {
                self.watch();
            }
            let wait = match self.look()? {
                _ if self.lost => LOST,
                true => UNSETTLED,
                false => self.reader.folder.rescan,
            };
            self.wait(wait)?;
        }
    }

    /// Starts to watch. This is done before the first look, so that no change is missed in between.
    fn watch(&mut self) {
        let Ok(root) = self.reader.folder.path.canonicalize() else { return };
        let notifier = self.notifier.clone();
        let handler = move |notice| {
            let _ = notifier.send(notice);
        };
        let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                self.root = root;
                self.hints.all = true;
                self.watcher = Some(watcher);
                self.unwatched = None;
            }
            // It is tried again with each look, and said once.
            Err(error) => {
                let why = error.to_string();
                if self.unwatched.as_ref() != Some(&why) {
                    let folder = self.reader.folder.path.display();
                    tracing::warn!(%folder, "cannot be watched, so changes are only found by rescans: {why}");
                    self.unwatched = Some(why);
                }
            }
        }
    }

    /// Looks at the folder, and returns whether to look again soon.
    fn look(&mut self) -> Result<bool, ReceiverDropped> {
        let now = Instant::now();
        self.writers.retain(|_, last| now.duration_since(*last) < WRITER_PATIENCE);
        self.hints.open = self.writers.keys().cloned().collect();
        let hints = std::mem::take(&mut self.hints);
        match self.reader.look(&hints) {
            Ok(found) => {
                // A file that was left for later is still to be read, even if its stamp stays the same.
                let waits = |file: &&Arc<str>| hints.all || hints.changed.contains(*file);
                self.hints.changed = hints.open.iter().filter(waits).cloned().collect();
                self.send_changes(found)
            }
            Err(reason) => {
                self.report_lost(reason)?;
                Ok(true)
            }
        }
    }

    fn send_changes(&mut self, found: FolderChanges) -> Result<bool, ReceiverDropped> {
        if std::mem::take(&mut self.lost) {
            self.send(SourceEvent::Recovered { source: self.name() })?;
        }
        if !found.moved.is_empty() {
            self.send(SourceEvent::Locations(found.moved))?;
        }
        if !found.changes.is_empty() {
            self.send(SourceEvent::Changes(found.changes))?;
        }
        if let Some(findings) = found.diagnostics {
            self.send(SourceEvent::Diagnostics { source: self.name(), findings })?;
        }
        if !std::mem::replace(&mut self.synced, true) {
            self.send(SourceEvent::Synced)?;
        }
        Ok(found.unsettled)
    }

    fn report_lost(&mut self, reason: String) -> Result<(), ReceiverDropped> {
        // The watcher may not see the folder when it comes back.
        self.watcher = None;
        self.writers.clear();
        if !std::mem::replace(&mut self.lost, true) {
            self.send(SourceEvent::Lost { source: self.name(), reason, loss: Loss::Unavailable })?;
        }
        Ok(())
    }

    fn name(&self) -> smol_str::SmolStr {
        format!("folder {}", self.reader.folder.path.display()).into()
    }

    fn send(&self, event: SourceEvent) -> Result<(), ReceiverDropped> {
        self.events.blocking_send(event).map_err(|_| ReceiverDropped)
    }

    /// Waits for a notice that matters and gathers further ones, or until it is time to look anyway.
    fn wait(&mut self, at_most: Duration) -> Result<(), ReceiverDropped> {
        let until = Instant::now() + at_most;
        let mut gathering = None;
        loop {
            if self.events.is_closed() {
                return Err(ReceiverDropped);
            }
            let end = gathering.unwrap_or(until);
            // Wakes up every second to notice that the receiver was dropped.
            let left = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
            match self.notices.recv_timeout(left) {
                Ok(notice) => {
                    if self.note(notice) && gathering.is_none() {
                        gathering = Some(Instant::now() + GATHER);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ReceiverDropped),
            }
        }
    }

    /// Records a notice, and returns whether it is a reason to look.
    fn note(&mut self, notice: notify::Result<notify::Event>) -> bool {
        let Ok(event) = notice else {
            self.hints.all = true;
            return true;
        };
        self.hints.all |= event.need_rescan();
        let mut matters = event.need_rescan();
        for path in &event.paths {
            matters |= self.note_path(path, event.kind);
        }
        matters
    }

    fn note_path(&mut self, path: &Path, kind: EventKind) -> bool {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) => return false,
            _ => {}
        }
        let Some(file) = relative(&self.root, path).filter(|_| has_read_extension(path)) else {
            // A folder, or a link to one, such as `..data`, which Kubernetes replaces.
            return !matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)));
        };
        match kind {
            // Only Linux reports when a writer is done.
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
                self.writers.insert(Arc::clone(&file), Instant::now());
            }
            EventKind::Modify(ModifyKind::Metadata(_)) => {}
            _ => {
                self.writers.remove(&file);
            }
        }
        self.hints.changed.insert(file);
        true
    }
}

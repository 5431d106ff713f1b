//! The thread that follows a folder: waits for events of the file system, looks, and tells.

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

use super::{Folder, Hints, Reader, is_read, listing::relative};
use crate::source::{Event, Loss};

/// Events of one save come close together; the engine gathers for longer.
const GATHER: Duration = Duration::from_millis(5);
/// When something was left for later.
const AGAIN: Duration = Duration::from_millis(25);
/// While the folder is gone.
const LOST: Duration = Duration::from_millis(200);
/// A writer that has not written for so long is not waited for.
const WRITER_PATIENCE: Duration = Duration::from_millis(500);

/// Starts the thread. It ends when the receiver is dropped, at the next look at the latest.
pub(super) fn start(folder: Folder) -> io::Result<mpsc::Receiver<Event>> {
    let (events, receiver) = mpsc::channel(64);
    thread::Builder::new().name("folder".to_owned()).spawn(move || {
        // A receiver that is gone is no mistake: nobody wants to know.
        let _ = Follower::new(folder, events).run();
    })?;
    Ok(receiver)
}

struct Follower {
    reader: Reader,
    events: mpsc::Sender<Event>,
    notices: Receiver<notify::Result<notify::Event>>,
    notifier: Sender<notify::Result<notify::Event>>,
    watcher: Option<RecommendedWatcher>,
    hints: Hints,
    // Files that somebody writes, and when they were last seen to.
    writers: BTreeMap<Arc<str>, Instant>,
    // As the events name it.
    root: PathBuf,
    synced: bool,
    lost: bool,
}

struct Gone;

impl Follower {
    fn new(folder: Folder, events: mpsc::Sender<Event>) -> Self {
        let (notifier, notices) = channel();
        Self {
            root: folder.path.clone(),
            reader: Reader::new(folder),
            events,
            notices,
            notifier,
            watcher: None,
            hints: Hints::default(),
            writers: BTreeMap::new(),
            synced: false,
            lost: false,
        }
    }

    fn run(mut self) -> Result<(), Gone> {
        loop {
            if self.watcher.is_none() {
                self.watch();
            }
            let wait = match self.look()? {
                _ if self.lost => LOST,
                true => AGAIN,
                false => self.reader.folder.rescan,
            };
            self.wait(wait)?;
        }
    }

    // Watching starts before looking, so that nothing falls in between.
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
            }
            Err(error) => tracing::warn!(folder = %self.reader.folder.path.display(), "cannot be watched, only looked at: {error}"),
        }
    }

    // Whether to look again soon.
    fn look(&mut self) -> Result<bool, Gone> {
        let now = Instant::now();
        self.writers.retain(|_, last| now.duration_since(*last) < WRITER_PATIENCE);
        self.hints.open = self.writers.keys().cloned().collect();
        let hints = std::mem::take(&mut self.hints);
        match self.reader.look(&hints) {
            Ok(seen) => {
                // What was left for later is still to be read, even if its stamp says nothing.
                let waits = |file: &&Arc<str>| hints.all || hints.changed.contains(*file);
                self.hints.changed = hints.open.iter().filter(waits).cloned().collect();
                self.tell(seen)
            }
            Err(reason) => {
                self.lose(reason)?;
                Ok(true)
            }
        }
    }

    fn tell(&mut self, seen: super::Seen) -> Result<bool, Gone> {
        if std::mem::take(&mut self.lost) {
            self.send(Event::Recovered { source: self.name() })?;
        }
        if !seen.moved.is_empty() {
            self.send(Event::Places(seen.moved))?;
        }
        if !seen.changes.is_empty() {
            self.send(Event::Changes(seen.changes))?;
        }
        if let Some(findings) = seen.diagnostics {
            self.send(Event::Diagnostics { source: self.name(), findings })?;
        }
        if !std::mem::replace(&mut self.synced, true) {
            self.send(Event::Synced)?;
        }
        Ok(seen.again)
    }

    fn lose(&mut self, reason: String) -> Result<(), Gone> {
        // The folder that comes back may be watched no more.
        self.watcher = None;
        self.writers.clear();
        if !std::mem::replace(&mut self.lost, true) {
            self.send(Event::Lost { source: self.name(), reason, loss: Loss::Away })?;
        }
        Ok(())
    }

    fn name(&self) -> smol_str::SmolStr {
        format!("folder {}", self.reader.folder.path.display()).into()
    }

    fn send(&self, event: Event) -> Result<(), Gone> {
        self.events.blocking_send(event).map_err(|_| Gone)
    }

    // Returns after a notice that matters and the moment for gathering, or when it is time to look anyway.
    fn wait(&mut self, at_most: Duration) -> Result<(), Gone> {
        let until = Instant::now() + at_most;
        let mut gathering = None;
        loop {
            if self.events.is_closed() {
                return Err(Gone);
            }
            let end = gathering.unwrap_or(until);
            // A receiver that is dropped is noticed within a second.
            let left = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
            match self.notices.recv_timeout(left) {
                Ok(notice) => {
                    if self.note(notice) && gathering.is_none() {
                        gathering = Some(Instant::now() + GATHER);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Gone),
            }
        }
    }

    // Whether the notice is a reason to look.
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
        let Some(file) = relative(&self.root, path).filter(|_| is_read(path)) else {
            // A folder, or a link to one: Kubernetes turns `..data`.
            return !matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)));
        };
        match kind {
            // Only Linux says when a writer is done.
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

//! A folder of YAML as a source: it is read once and then followed.
//!
//! inotify only says when to look. What changed is found by comparing stamps and contents, so that a lost or repeated event
//! does no harm, and a slow rescan is the safety net. A file that is open for writing is not read until it is closed, unless
//! its writer pauses for half a second.

mod file;
mod listing;
mod offline;
mod reader;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use self::{
    offline::{Contents, read_paths},
    settings::Folder,
};

//! A folder of YAML as a source: it is read once and then followed.
//!
//! inotify says only when to look. What to do follows from looking at stamps and contents, so that a lost or doubled event
//! does no harm, and a slow rescan is the safety net. A file that somebody holds open for writing is left alone until it is
//! closed, though not for long.

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
